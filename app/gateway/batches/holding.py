"""Who works on a batch, and what they have got done: the rows behind `runner`.

Each function is one short transaction. Whoever holds a batch names the fence under which they took
it up; one who was silent for too long finds another's there and raises Lost.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from app.accounts import limits
from app.accounts.tables import ApiKey, Membership, User
from app.db import now
from app.errors import N_
from app.gateway.batches.lines import Outcome, problem
from app.gateway.batches.states import OPEN, switch
from app.gateway.batches.tables import Batch, BatchAnswer
from app.gateway.service import Caller
from app.gateway.work import SILENT, Lost
from app.queue import transaction

PAGE = 500  # answers read at once
GONE_KEY = N_("The API key or the account that started this batch may no longer call models.")


def held(db: Session, batch_id: str, fence: int) -> Batch:
    """The row, locked. Raises Lost, also once it was let go: a beat may come too late."""
    found = db.get(Batch, batch_id, with_for_update=True, populate_existing=True)
    if found is None or found.fence != fence or not found.beat_at or found.status not in OPEN:
        raise Lost(batch_id)
    return found


def claim(runner: str) -> Batch | None:
    """Take up a batch that nobody works on: of the workspace with the fewest in work, the oldest."""
    with transaction() as db:
        other = aliased(Batch)
        busy = (
            select(func.count())
            .where(
                other.workspace_id == Batch.workspace_id,
                other.status.in_(OPEN),
                other.beat_at > now() - SILENT,
            )
            .correlate(Batch)
            .scalar_subquery()
        )
        query = (
            select(Batch)
            .where(
                Batch.status.in_(OPEN),
                or_(Batch.beat_at.is_(None), Batch.beat_at <= now() - SILENT),
            )
            .order_by(busy, Batch.created_at, Batch.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Batch)
        )
        found = db.scalar(query)
        if found is not None:
            found.runner, found.beat_at, found.fence = runner, now(), found.fence + 1
        return found


def beat(batch_id: str, fence: int, waits: dict[str, Any] | None) -> tuple[Batch, Caller]:
    """Say that it is being worked on, and why nothing goes on; look who wants what. Raises Lost."""
    with transaction() as db:
        found = held(db, batch_id, fence)
        found.beat_at = now()
        if found.status == "in_progress":
            found.waits = waits
        if found.status in ("validating", "in_progress") and not may_go_on(db, found):
            found.errors = [*found.errors, problem("key_not_valid", GONE_KEY)]
            switch(found, "cancelling")
        return found, caller(db, found)


def caller(db: Session, batch: Batch) -> Caller:
    """As whom its lines are asked: with the key that started it, as that is now."""
    return caller_of(db, batch.workspace_id, batch.user_id, batch.api_key_id)


def caller_of(db: Session, workspace_id: str, user_id: str, api_key_id: str | None) -> Caller:
    key = db.get(ApiKey, api_key_id) if api_key_id else None
    if key is None:
        return Caller(workspace_id, user_id, None, limits.NO_LIMITS)
    return Caller(workspace_id, user_id, key.id, limits.of(key))


def may_go_on(db: Session, batch: Batch) -> bool:
    """Whether who started it may still call models."""
    return may_call(db, batch.workspace_id, batch.user_id, batch.api_key_id)


def may_call(db: Session, workspace_id: str, user_id: str, api_key_id: str | None) -> bool:
    person = (
        select(User.id)
        .join(Membership, Membership.user_id == User.id)
        .where(
            User.id == user_id,
            User.disabled_at.is_(None),
            Membership.workspace_id == workspace_id,
            Membership.role != "viewer",
        )
    )
    key = select(ApiKey.id).where(
        ApiKey.id == api_key_id,
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()),
    )
    asked = [person, key] if api_key_id else [person]
    return all(db.scalar(query) for query in asked)


def let_go(batch_id: str, fence: int) -> None:
    """Others need not wait until the silence is long enough."""
    with transaction() as db:
        held(db, batch_id, fence).beat_at = None


# -- going on ----------------------------------------------------------------------------


def begin(batch_id: str, fence: int, model: str | None, total: int) -> Batch:
    """Its lines are as they should be. Raises Lost."""
    with transaction() as db:
        found = held(db, batch_id, fence)
        found.model, found.total = model, total
        if found.status == "validating":  # and not cancelled meanwhile
            switch(found, "in_progress")
        return found


def done(batch_id: str) -> set[int]:
    """The lines that have an answer."""
    with transaction() as db:
        return set(db.scalars(select(BatchAnswer.line).where(BatchAnswer.batch_id == batch_id)))


def store(batch_id: str, fence: int, outcomes: Sequence[Outcome]) -> None:
    """Keep what came of lines, and count it; a line that is there already is left as it is."""
    rows = [
        {"batch_id": batch_id, "line": one.line, "ok": one.ok, "answer": one.answer}
        for one in outcomes
    ]
    with transaction() as db:
        found = held(db, batch_id, fence)
        found.beat_at = now()
        made = insert(BatchAnswer).on_conflict_do_nothing().returning(BatchAnswer.line)
        new = set(db.scalars(made, rows))
        for one in outcomes:
            if one.line not in new:
                continue
            found.completed += one.ok
            found.failed += not one.ok
            for column, tokens in one.usage.items():
                setattr(found, column, getattr(found, column) + tokens)


# -- the end -----------------------------------------------------------------------------


def finalize(batch_id: str, fence: int) -> Batch:
    """All is answered, or the time is over. Raises Lost."""
    with transaction() as db:
        found = held(db, batch_id, fence)
        if found.status == "in_progress":
            switch(found, "finalizing")
        return found


def answers(batch_id: str, ok: bool, after: int) -> list[BatchAnswer]:
    """Those that follow the line `after`, by line; a page of them."""
    query = select(BatchAnswer).where(
        BatchAnswer.batch_id == batch_id, BatchAnswer.ok.is_(ok), BatchAnswer.line > after
    )
    with transaction() as db:
        return list(db.scalars(query.order_by(BatchAnswer.line).limit(PAGE)))


def end(
    batch_id: str,
    fence: int,
    status: str,
    files: dict[str, str | None],
    errors: list[dict[str, Any]],
) -> None:
    """`files` are columns of the row. The answers stand in them now. Raises Lost."""
    with transaction() as db:
        found = held(db, batch_id, fence)
        for column, file_id in files.items():
            setattr(found, column, file_id)
        if found.status == "cancelling":  # meanwhile
            status = "cancelled"
        found.errors = found.errors or errors
        switch(found, status)
        db.execute(delete(BatchAnswer).where(BatchAnswer.batch_id == batch_id))
