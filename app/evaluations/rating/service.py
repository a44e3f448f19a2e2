"""Rating rounds: begin, show, rate, close."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import delete as remove_rows
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.accounts.tables import User
from app.datasets.rows import browse
from app.datasets.tables import DatasetVersion
from app.db import new_id, now
from app.errors import N_, Conflict, Invalid, NotFound
from app.evaluations import prompts
from app.evaluations import service as evaluations
from app.evaluations.rating import order, results
from app.evaluations.rating.order import Item
from app.evaluations.rating.schemas import RatingCreate
from app.evaluations.states import FINAL
from app.evaluations.tables import (
    Candidate,
    Evaluation,
    EvaluationAnswer,
    Rating,
    RatingRound,
)

VALUES = {"marks": 5, "pairs": 3}  # the largest
CLOSED = N_("This rating round is closed.")


@dataclass
class Shown:
    """An item as its rater sees it."""

    at: int
    items: int
    done: int
    messages: list[dict[str, Any]]
    reference: str
    answers: list[str]
    value: int | None


def create(db: Session, who: Principal, evaluation_id: str, body: RatingCreate) -> RatingRound:
    """Open a round. Raises NotFound, Conflict and Invalid."""
    one = evaluations.get(db, who.workspace_id, evaluation_id)
    if one.state not in FINAL:
        raise Conflict(N_("Answers can be rated once the evaluation is over."), code="not_over")
    several = evaluations.candidates(db, [one.id])[one.id]
    if body.kind == "pairs" and len(several) < 2:
        raise Invalid(
            N_("To rate in pairs there must be a second candidate."), code="no_pair", field="kind"
        )
    numbers = order.drawn(answered(db, several), body.rows, body.seed)
    if not numbers:
        raise Conflict(
            N_("There is no row that all candidates have answered."), code="nothing_to_rate"
        )
    made = RatingRound(
        id=new_id("rat"),
        workspace_id=who.workspace_id,
        evaluation_id=one.id,
        created_by=who.user_id,
        name=body.name or one.name,
        kind=body.kind,
        numbers=numbers,
    )
    db.add(made)
    db.flush()
    return made


def answered(db: Session, several: Sequence[Candidate]) -> list[int]:
    """The rows that all candidates have answered."""
    query = (
        select(EvaluationAnswer.number)
        .where(
            EvaluationAnswer.candidate_id.in_([one.id for one in several]),
            EvaluationAnswer.text.is_not(None),
        )
        .group_by(EvaluationAnswer.number)
        .having(func.count() == len(several))
    )
    return list(db.scalars(query))


# -- looking -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, round_id: str, *, lock: bool = False) -> RatingRound:
    """Raises NotFound, also for another workspace's."""
    found = db.get(RatingRound, round_id, with_for_update=lock, populate_existing=lock)
    if found is None or found.workspace_id != workspace_id:
        raise NotFound(N_("There is no such rating round."))
    return found


def list_rounds(
    db: Session,
    workspace_id: str,
    *,
    evaluation_id: str = "",
    after: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[RatingRound], bool]:
    """Newest first, and whether there are more."""
    query = here = select(RatingRound).where(RatingRound.workspace_id == workspace_id)
    if evaluation_id:
        query = query.where(RatingRound.evaluation_id == evaluation_id)
    query = paging.behind(db, query, here, [RatingRound.created_at.desc()], RatingRound.id, after)
    found = list(db.scalars(query.offset(offset).limit(limit + 1)))
    return found[:limit], len(found) > limit


def rated_candidates(db: Session, one: RatingRound) -> list[Candidate]:
    """Whose answers are items: of pairs all but the baseline."""
    several = evaluations.candidates(db, [one.evaluation_id])[one.evaluation_id]
    return several[1:] if one.kind == "pairs" else several


def items_of(db: Session, one: RatingRound, user_id: str) -> list[Item]:
    """In the rater's own order."""
    ids = [each.id for each in rated_candidates(db, one)]
    return order.items(one.id, user_id, one.numbers, ids)


def progress(db: Session, rounds: Sequence[RatingRound]) -> dict[str, list[tuple[str, str, int]]]:
    """Of each round its raters: id, name and how many items they have rated."""
    query = (
        select(Rating.round_id, Rating.user_id, User.name, User.email, func.count())
        .join(User, User.id == Rating.user_id)
        .where(Rating.round_id.in_([one.id for one in rounds]))
        .group_by(Rating.round_id, Rating.user_id, User.name, User.email)
        .order_by(func.count().desc(), Rating.user_id)
    )
    found: dict[str, list[tuple[str, str, int]]] = {one.id: [] for one in rounds}
    for round_id, user_id, name, email, count in db.execute(query):
        found[round_id].append((user_id, name or email, count))
    return found


def mine(db: Session, one: RatingRound, user_id: str) -> dict[tuple[int, str], int]:
    """What this rater said, by row and candidate."""
    query = select(Rating).where(Rating.round_id == one.id, Rating.user_id == user_id)
    return {(each.number, each.candidate_id): each.value for each in db.scalars(query)}


def next_of(db: Session, one: RatingRound, user_id: str, start: int = 0) -> int | None:
    """The first item from `start` on, then from the beginning, that this rater has not rated."""
    said = mine(db, one, user_id)
    left = [
        at
        for at, item in enumerate(items_of(db, one, user_id))
        if (item.number, item.candidate_id) not in said
    ]
    return next((at for at in left if at >= start), left[0] if left else None)


def show(db: Session, one: RatingRound, user_id: str, at: int) -> Shown:
    """An item, blind. Raises NotFound past the last."""
    several = items_of(db, one, user_id)
    item = item_at(several, at)
    evaluation = db.get_one(Evaluation, one.evaluation_id)
    version = db.get_one(DatasetVersion, evaluation.dataset_version_id)
    line = next(iter(browse.some(version, [item.number])))[1]
    asked = prompts.question(orjson.loads(line), evaluation.settings["system"])
    said = mine(db, one, user_id)
    value = said.get((item.number, item.candidate_id))
    if value is not None and one.kind == "pairs" and item.flipped:
        value = order.turned(value)
    return Shown(
        at=at,
        items=len(several),
        done=len(said),
        messages=asked.messages,
        reference=asked.reference,
        answers=answers_of(db, one, item),
        value=value,
    )


def item_at(several: Sequence[Item], at: int) -> Item:
    if not 0 <= at < len(several):
        raise NotFound(N_("There is no such answer to rate."))
    return several[at]


def answers_of(db: Session, one: RatingRound, item: Item) -> list[str]:
    """The answer, or both of a pair, in the order in which this rater sees them. What a model
    thought before it answered is left out: it would tell one from the other.
    """
    ids = [item.candidate_id]
    if one.kind == "pairs":
        several = evaluations.candidates(db, [one.evaluation_id])[one.evaluation_id]
        ids = [several[0].id, item.candidate_id]
        ids = ids[::-1] if item.flipped else ids
    found = {
        each.candidate_id: prompts.thoughtless(each.text or "")
        for each in db.scalars(
            select(EvaluationAnswer).where(
                EvaluationAnswer.candidate_id.in_(ids), EvaluationAnswer.number == item.number
            )
        )
    }
    return [found.get(each, "") for each in ids]


# -- rating ------------------------------------------------------------------------------


def rate(db: Session, who: Principal, round_id: str, at: int, value: int) -> RatingRound:
    """Say what one thinks of an item, or think again. Raises NotFound, Invalid and Conflict."""
    one = get(db, who.workspace_id, round_id, lock=True)
    item = item_at(items_of(db, one, who.user_id), at)
    if one.state != "open":
        raise Conflict(CLOSED, code="closed")
    if not 1 <= value <= VALUES[one.kind]:
        raise Invalid(
            N_("Rate from 1 to %(most)s."), code="no_mark", field="value", most=VALUES[one.kind]
        )
    if one.kind == "pairs" and item.flipped:
        value = order.turned(value)
    made = insert(Rating).values(
        round_id=one.id,
        user_id=who.user_id,
        candidate_id=item.candidate_id,
        number=item.number,
        value=value,
        at=now(),
    )
    key = [Rating.round_id, Rating.user_id, Rating.candidate_id, Rating.number]
    again = {"value": made.excluded.value, "at": made.excluded.at}
    db.execute(made.on_conflict_do_update(index_elements=key, set_=again))
    return one


def close(db: Session, workspace_id: str, round_id: str) -> RatingRound:
    """Nobody rates any more, and who got what is told. Twice is once. Raises Conflict if nobody
    has rated.
    """
    one = get(db, workspace_id, round_id, lock=True)
    if one.state == "open":
        given = list(db.scalars(select(Rating).where(Rating.round_id == one.id)))
        if not given:
            raise Conflict(N_("Nobody has rated anything yet."), code="no_ratings")
        several = evaluations.candidates(db, [one.evaluation_id])[one.evaluation_id]
        evaluation = db.get_one(Evaluation, one.evaluation_id)
        one.results = results.of(db, one, evaluation, several, given)
        one.state, one.closed_at = "closed", now()
    return one


def ratings(db: Session, one: RatingRound) -> list[Rating]:
    """All of a closed round. Raises Conflict before."""
    if one.state != "closed":
        raise Conflict(
            N_("Close the round first: until then nobody is told whose answers got what."),
            code="still_open",
        )
    query = select(Rating).where(Rating.round_id == one.id)
    return list(db.scalars(query.order_by(Rating.number, Rating.candidate_id, Rating.user_id)))


def delete(db: Session, workspace_id: str, round_id: str) -> None:
    """With all ratings."""
    one = get(db, workspace_id, round_id, lock=True)
    db.execute(remove_rows(Rating).where(Rating.round_id == one.id))
    db.delete(one)
