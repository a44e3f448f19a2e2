"""The states of an import, and the one door between them.

(new) → importing → succeeded, failed or cancelled; the last two may be tried again, from the
bytes that are here.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.db import now
from app.errors import N_, Conflict
from app.models.tables import ModelImport, ModelImportEvent

IMPORTING, SUCCEEDED, FAILED, CANCELLED = "importing", "succeeded", "failed", "cancelled"
MOVES: dict[str | None, set[str]] = {
    None: {IMPORTING},
    IMPORTING: {SUCCEEDED, FAILED, CANCELLED},
    SUCCEEDED: set(),
    FAILED: {IMPORTING},
    CANCELLED: {IMPORTING},
}
REFUSED = {
    IMPORTING: N_("This import is over: it cannot be tried again."),
    CANCELLED: N_("This import is over: there is nothing to cancel."),
}


def switch(
    db: Session,
    one: ModelImport,
    state: str,
    *,
    user_id: str | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """Move an import to `state` and write the event. Raises Conflict if it cannot go there."""
    old: str | None = one.state
    if state not in MOVES[old]:
        words = REFUSED.get(state, N_("An import that is over does not change any more."))
        raise Conflict(words, code="import.over")
    one.state, one.error = state, error
    one.claimed_at, one.attempts = None, 0
    one.finished_at = None if state == IMPORTING else now()
    db.add(one)
    db.flush()
    db.add(ModelImportEvent(import_id=one.id, user_id=user_id, old=old, new=state))
    db.flush()
