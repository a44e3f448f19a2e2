"""The states of a dataset version, and the one door between them.

(new) → validating → draft → publishing → published; those that move by themselves may fail.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.datasets.tables import DatasetEvent, DatasetVersion
from app.errors import N_, Conflict

VALIDATING, DRAFT, PUBLISHING = "validating", "draft", "publishing"
PUBLISHED, FAILED = "published", "failed"
STATES = (VALIDATING, DRAFT, PUBLISHING, PUBLISHED, FAILED)
MOVING = (VALIDATING, PUBLISHING)  # will change by itself

MOVES = {
    None: {VALIDATING},
    VALIDATING: {DRAFT, FAILED},
    DRAFT: {PUBLISHING},
    PUBLISHING: {PUBLISHED, FAILED},
    PUBLISHED: set(),
    FAILED: set(),
}


def switch(
    db: Session,
    version: DatasetVersion,
    status: str,
    *,
    user_id: str | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """Move `version` to `status` and write the event. Raises Conflict if it cannot go there."""
    old: str | None = version.status
    if status not in MOVES[old]:
        raise Conflict(N_("A version that is %(old)s cannot become %(new)s."), old=old, new=status)
    version.status = status
    version.error = error
    # each state has its own work: nothing is carried over
    version.cursor, version.claimed_at, version.attempts = {}, None, 0
    db.add(version)
    db.flush()
    db.add(DatasetEvent(version_id=version.id, user_id=user_id, old=old, new=status))
    db.flush()
