"""How a batch may go on. Each status has a time of its own, which tells what happened."""

from sqlalchemy import inspect

from app.db import now
from app.gateway.batches.tables import Batch

MOVES = {
    "validating": {"in_progress", "failed", "cancelling", "expired"},
    "in_progress": {"finalizing", "failed", "cancelling"},
    "finalizing": {"completed", "expired", "failed"},
    "cancelling": {"cancelled"},
}
OPEN = tuple(MOVES)
STATUSES = (*OPEN, "completed", "failed", "expired", "cancelled")


def switch(batch: Batch, status: str) -> None:
    """The only place where a status changes. Raises ValueError for a move that is none."""
    if status not in MOVES.get(batch.status, ()):
        raise ValueError(f"{batch.id} cannot go from {batch.status} to {status}")
    batch.status = status
    assert f"{status}_at" in inspect(Batch).columns
    setattr(batch, f"{status}_at", now())
    if status not in OPEN:
        batch.waits, batch.beat_at = None, None
