"""Batches: start, find, stop. What works on them is `runner`."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.db import now
from app.errors import N_, Conflict, Invalid, NotFound, TooMany
from app.gateway.batches.states import OPEN, switch
from app.gateway.batches.tables import Batch
from app.gateway.files import service as files

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
WINDOW = "24h"
LIFE = timedelta(hours=24)
MOST_BYTES = 200 * 2**20  # of an input file
MOST_OPEN = 100  # of one workspace
NO_BATCH = N_("No batch found with id '%(id)s'.")


@dataclass(frozen=True)
class Wanted:
    """What a client says of a new batch."""

    input_file_id: str
    endpoint: str
    completion_window: str = WINDOW
    metadata: dict[str, Any] | None = None
    keep_seconds: int | None = None


def create(db: Session, who: Principal, wanted: Wanted) -> Batch:
    """A batch that is validated in the background. Raises NotFound, Invalid, TooMany."""
    if wanted.endpoint not in ENDPOINTS:
        raise Invalid(
            N_("A batch cannot ask %(endpoint)s. These are possible: %(known)s."),
            code="invalid_endpoint",
            field="endpoint",
            endpoint=wanted.endpoint[:100],
            known=", ".join(ENDPOINTS),
        )
    if wanted.completion_window != WINDOW:
        raise Invalid(
            N_("completion_window must be %(window)s."),
            code="invalid_value",
            field="completion_window",
            window=WINDOW,
        )
    try:
        files.check_seconds(wanted.keep_seconds)
    except Invalid as error:
        error.field = "output_expires_after"
        raise
    check_file(db, who.workspace_id, wanted.input_file_id)
    here = select(func.count()).where(
        Batch.workspace_id == who.workspace_id, Batch.status.in_(OPEN)
    )
    if (db.scalar(here) or 0) >= MOST_OPEN:
        raise TooMany(
            N_("%(most)s batches of this workspace are not finished yet. Wait for one of them."),
            code="too_many_batches",
            retry_after=60,
            most=MOST_OPEN,
        )
    made = Batch(
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        api_key_id=who.api_key_id,
        input_file_id=wanted.input_file_id,
        endpoint=wanted.endpoint,
        keep_seconds=wanted.keep_seconds,
        expires_at=now() + LIFE,
        **({"meta": wanted.metadata} if wanted.metadata is not None else {}),
    )
    db.add(made)
    db.flush()
    return made


def check_file(db: Session, workspace_id: str, file_id: str) -> None:
    try:
        file = files.get(db, workspace_id, file_id)
    except NotFound as error:
        error.field = "input_file_id"
        raise
    if file.purpose != "batch":
        raise Invalid(
            N_("The file %(id)s has the purpose '%(purpose)s', and a batch needs 'batch'."),
            code="invalid_file_purpose",
            field="input_file_id",
            id=file.id,
            purpose=file.purpose,
        )
    if file.bytes > MOST_BYTES:
        raise Invalid(
            N_("This is too large: at most %(most)s MiB are taken here."),
            code="file_too_large",
            field="input_file_id",
            most=MOST_BYTES // 2**20,
        )


# -- looking -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, wanted: str, *, lock: bool = False) -> Batch:
    """Raises NotFound, also for another workspace's."""
    found = db.get(Batch, wanted, with_for_update=lock, populate_existing=lock)
    if found is None or found.workspace_id != workspace_id:
        raise NotFound(NO_BATCH, code="batch_not_found", field="batch_id", id=wanted[:100])
    return found


def listed(
    db: Session, workspace_id: str, *, after: str = "", limit: int = 20
) -> tuple[list[Batch], bool]:
    """The newest first, those that follow the batch `after`; and whether there are more."""
    query = select(Batch).where(Batch.workspace_id == workspace_id)
    if after:
        last = get(db, workspace_id, after)
        query = query.where(tuple_(Batch.created_at, Batch.id) < (last.created_at, last.id))
    query = query.order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit + 1)
    found = list(db.scalars(query))
    return found[:limit], len(found) > limit


def page(
    db: Session, workspace_id: str, *, offset: int = 0, limit: int = 50
) -> tuple[list[Batch], int]:
    """A page of them, the newest first, and how many there are."""
    query = select(Batch).where(Batch.workspace_id == workspace_id)
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    query = query.order_by(Batch.created_at.desc(), Batch.id.desc())
    return list(db.scalars(query.offset(offset).limit(limit))), total


# -- stopping ----------------------------------------------------------------------------


def cancel(db: Session, workspace_id: str, wanted: str) -> Batch:
    """What is answered by now is kept; twice is once. Raises Conflict for one that is over."""
    found = get(db, workspace_id, wanted, lock=True)
    if found.status in ("cancelling", "cancelled"):
        return found
    if found.status not in ("validating", "in_progress"):
        raise Conflict(
            N_("Cannot cancel a batch with status '%(status)s'."),
            code="batch_not_cancellable",
            status=found.status,
        )
    switch(found, "cancelling")
    return found
