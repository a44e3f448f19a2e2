"""The states of a dataset version, and the one door between them.

(new) → [importing →] validating [⇄ mapping] → draft → publishing → published; those that move by
themselves may fail. `importing` fetches or builds what is then validated; `mapping` waits for the
user to say which column is what. A draft made from a version goes from importing to draft.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.datasets.tables import DatasetEvent, DatasetVersion
from app.errors import N_, Conflict

IMPORTING, MAPPING = "importing", "mapping"
VALIDATING, DRAFT, PUBLISHING = "validating", "draft", "publishing"
PUBLISHED, FAILED = "published", "failed"
STATES = (IMPORTING, VALIDATING, MAPPING, DRAFT, PUBLISHING, PUBLISHED, FAILED)
MOVING = (IMPORTING, VALIDATING, PUBLISHING)  # will change by itself
READING = (IMPORTING, VALIDATING, MAPPING)  # its upload is still needed

MOVES = {
    None: {IMPORTING, VALIDATING},
    IMPORTING: {VALIDATING, DRAFT, FAILED},
    VALIDATING: {MAPPING, DRAFT, FAILED},
    MAPPING: {VALIDATING},
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
    if old is not None:  # each state has its own work: nothing is carried over
        version.cursor, version.claimed_at, version.attempts = {}, None, 0
    db.add(version)
    db.flush()
    db.add(DatasetEvent(version_id=version.id, user_id=user_id, old=old, new=status))
    db.flush()
