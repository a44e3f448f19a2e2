"""Who works on an evaluation, and what they have got done: the rows behind `runner`.

Each function is one short transaction, as with batches: whoever holds an evaluation names the fence
under which they took it up, and one who was silent for too long finds another's there.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from app.db import now
from app.errors import N_, DomainError
from app.evaluations import answers
from app.evaluations.answers import Outcome
from app.evaluations.states import OPEN, note, switch
from app.evaluations.tables import Candidate, Evaluation, EvaluationAnswer
from app.gateway.batches.holding import caller_of, may_call
from app.gateway.service import Caller
from app.gateway.work import SILENT, Lost
from app.queue import transaction

ALONE: Any = {"key_share": True}  # events, which name the row, may be written beside it
GONE_KEY = N_("The API key or the account that started this may no longer call models.")


def held(db: Session, evaluation_id: str, fence: int) -> Evaluation:
    """The row, locked. Raises Lost, also once it was let go: a beat may come too late."""
    found = db.get(Evaluation, evaluation_id, with_for_update=ALONE, populate_existing=True)
    if found is None or found.fence != fence or not found.beat_at or found.state not in OPEN:
        raise Lost(evaluation_id)
    return found


def claim(runner: str) -> Evaluation | None:
    """Take up what nobody works on: of the workspace with the fewest in work, the oldest."""
    with transaction() as db:
        other = aliased(Evaluation)
        busy = (
            select(func.count())
            .where(
                other.workspace_id == Evaluation.workspace_id,
                other.state.in_(OPEN),
                other.beat_at > now() - SILENT,
            )
            .correlate(Evaluation)
            .scalar_subquery()
        )
        query = (
            select(Evaluation)
            .where(
                Evaluation.state.in_(OPEN),
                or_(Evaluation.beat_at.is_(None), Evaluation.beat_at <= now() - SILENT),
            )
            .order_by(busy, Evaluation.created_at, Evaluation.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Evaluation, key_share=True)
        )
        found = db.scalar(query)
        if found is not None:
            found.runner, found.beat_at, found.fence = runner, now(), found.fence + 1
            if found.state == "queued":
                switch(db, found, "running")
        return found


def beat(evaluation_id: str, fence: int, waits: dict[str, Any] | None) -> tuple[Evaluation, Caller]:
    """Say that it is being worked on, and why nothing goes on; look who wants what. Raises Lost."""
    with transaction() as db:
        found = held(db, evaluation_id, fence)
        found.beat_at = now()
        who = (found.workspace_id, found.created_by, found.api_key_id)
        if found.state == "running":
            found.waits = waits
            if not may_call(db, *who):
                found.error = {"code": "key_not_valid", "message": GONE_KEY, "params": {}}
                switch(db, found, "cancelling")
        return found, caller_of(db, *who)


def let_go(evaluation_id: str, fence: int) -> None:
    """Others need not wait until the silence is long enough."""
    with transaction() as db:
        held(db, evaluation_id, fence).beat_at = None


# -- candidates --------------------------------------------------------------------------


def candidates(evaluation_id: str) -> list[Candidate]:
    """The baseline first."""
    with transaction() as db:
        return of(db, evaluation_id)


def of(db: Session, evaluation_id: str) -> list[Candidate]:
    query = select(Candidate).where(Candidate.evaluation_id == evaluation_id)
    return list(db.scalars(query.order_by(Candidate.position)))


def done(candidate_id: str) -> set[int]:
    """The rows that have an answer."""
    query = select(EvaluationAnswer.number).where(EvaluationAnswer.candidate_id == candidate_id)
    with transaction() as db:
        return set(db.scalars(query))


def store(evaluation_id: str, fence: int, candidate_id: str, outcomes: Sequence[Outcome]) -> None:
    """Keep answers, and count them; one that is there already is left as it is."""
    rows = [answers.row(candidate_id, one) for one in outcomes]
    with transaction() as db:
        found = held(db, evaluation_id, fence)
        found.beat_at = now()
        made = insert(EvaluationAnswer).on_conflict_do_nothing().returning(EvaluationAnswer.number)
        new = set(db.scalars(made, rows))
        fresh = [one for one in outcomes if one.number in new]
        counted = {
            "done": len(fresh),
            "failed": sum(one.error is not None for one in fresh),
            "prompt_tokens": sum(one.prompt_tokens for one in fresh),
            "completion_tokens": sum(one.completion_tokens for one in fresh),
        }
        db.execute(
            update(Candidate)
            .where(Candidate.id == candidate_id)
            .values({name: getattr(Candidate, name) + value for name, value in counted.items()})
        )


def move(candidate_id: str, state: str, error: DomainError | None = None) -> Candidate:
    """A candidate goes on, or fails with a reason. The others are not held up by it."""
    with transaction() as db:
        one = db.get_one(Candidate, candidate_id, with_for_update=True)
        if one.state == state:
            return one
        one.state = state
        if state == "asking" and one.asking_at is None:
            one.asking_at = now()
        if state in ("done", "failed"):
            one.done_at = now()
        if error is not None:
            one.error = error.kept()
        messages = {
            "starting": N_("An engine is started for %(name)s."),
            "asking": N_("%(name)s is asked."),
            "done": N_("%(name)s was asked everything."),
            "failed": N_("%(name)s gave no answers."),
        }
        note(db, one.evaluation_id, "candidate", messages[state], {"name": one.label})
        return one


def end(evaluation_id: str, fence: int, state: str, **columns: Any) -> Evaluation:
    """The last of it, unless somebody asked for something else meanwhile. Raises Lost."""
    with transaction() as db:
        found = held(db, evaluation_id, fence)
        for name, value in columns.items():
            setattr(found, name, value)
        asked = {"cancelling": "cancelled", "pausing": "paused"}.get(found.state)
        switch(db, found, asked or state)
        return found
