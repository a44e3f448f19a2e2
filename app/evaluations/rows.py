"""The rows of an evaluation, each with what every candidate answered, as pages show them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Float, cast, func, select
from sqlalchemy.orm import Session, aliased

from app.datasets.rows import browse
from app.datasets.tables import DatasetVersion
from app.errors import N_, Invalid
from app.evaluations.figures import BUCKETS
from app.evaluations.judging import keeping
from app.evaluations.prompts import question
from app.evaluations.scorers.scoring import LOWER_IS_BETTER
from app.evaluations.tables import (
    Candidate,
    Evaluation,
    EvaluationAnswer,
    EvaluationJudgement,
    EvaluationRow,
)

ORDERS = ("number", "gain", "loss", "best", "worst")


@dataclass
class Shown:
    """A row, with the answers in the order of the candidates; None where one has none yet."""

    number: int
    label: str
    gap: float | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    reference: str = ""
    answers: list[EvaluationAnswer | None] = field(default_factory=list)
    judgements: list[list[EvaluationJudgement]] = field(default_factory=list)  # of each answer


def page(
    db: Session,
    evaluation: Evaluation,
    candidates: Sequence[Candidate],
    *,
    scorer: str = "",
    candidate: str = "",
    order: str = "number",
    label: str = "",
    length: str = "",
    said: str = "",
    offset: int = 0,
    limit: int = 20,
) -> tuple[list[Shown], bool, int]:
    """Rows, whether there are more, and how many there are.

    `order`: by number, by the largest gain or loss of `candidate` (by default the second) beside
    the baseline, or its best or worst. `label`, `length`, `said`: only those of a label, of a
    length, whose answer named that label. Raises Invalid.
    """
    scorer, kind = scorer_of(evaluation, scorer)
    chosen = candidate_of(candidates, candidate)
    base, ours = aliased(EvaluationAnswer), aliased(EvaluationAnswer)
    mine = cast(ours.scores[scorer].astext, Float)
    gap = mine - cast(base.scores[scorer].astext, Float)
    query = (
        select(EvaluationRow.number, EvaluationRow.label, gap.label("gap"))
        .outerjoin(ours, (ours.number == EvaluationRow.number) & (ours.candidate_id == chosen.id))
        .outerjoin(
            base,
            (base.number == EvaluationRow.number) & (base.candidate_id == candidates[0].id),
        )
        .where(EvaluationRow.evaluation_id == evaluation.id)
    )
    if label:
        query = query.where(EvaluationRow.label == label)
    if length:
        query = query.where(EvaluationRow.length.between(*bounds(length)))
    if said:
        query = query.where(ours.said[scorer].astext == ("" if said == "-" else said))
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    sign = -1 if kind in LOWER_IS_BETTER else 1
    by = {
        "gain": (sign * gap).desc().nulls_last(),
        "loss": (sign * gap).asc().nulls_last(),
        "best": (sign * mine).desc().nulls_last(),
        "worst": (sign * mine).asc().nulls_last(),
    }
    places = [by[order]] if order in by else []
    query = query.order_by(*places, EvaluationRow.number).offset(offset).limit(limit + 1)
    found = [Shown(*row) for row in db.execute(query)]
    filled(db, evaluation, candidates, found[:limit])
    return found[:limit], len(found) > limit, total


def scorer_of(evaluation: Evaluation, key: str) -> tuple[str, str]:
    """Its key and kind; the first by default. Raises Invalid."""
    for one in evaluation.scorers:
        if key in ("", one["key"]):
            return one["key"], one["kind"]
    raise Invalid(
        N_("This evaluation has no scorer %(key)s."), code="no_scorer", field="scorer", key=key[:50]
    )


def candidate_of(candidates: Sequence[Candidate], wanted: str) -> Candidate:
    """By id; the one beside the baseline by default. Raises Invalid."""
    if not wanted:
        return candidates[min(1, len(candidates) - 1)]
    for one in candidates:
        if one.id == wanted:
            return one
    raise Invalid(
        N_("This evaluation has no candidate %(id)s."),
        code="no_candidate",
        field="candidate",
        id=wanted[:50],
    )


def bounds(name: str) -> tuple[int, int]:
    """Of a bucket of lengths. Raises Invalid."""
    start = name.removeprefix("≥ ").partition("–")[0]
    if not start.isdecimal() or int(start) not in BUCKETS:
        raise Invalid(N_("There is no such part."), code="no_part", field="length")
    at = BUCKETS.index(int(start))
    return BUCKETS[at], BUCKETS[at + 1] - 1 if at + 1 < len(BUCKETS) else 2**31 - 1


def filled(
    db: Session, evaluation: Evaluation, candidates: Sequence[Candidate], found: Sequence[Shown]
) -> None:
    """Prompts from the dataset, answers from the table."""
    version = db.get_one(DatasetVersion, evaluation.dataset_version_id)
    numbers = sorted(one.number for one in found)
    asked = {
        number: question(orjson.loads(line), evaluation.settings["system"])
        for number, line in browse.some(version, numbers)
    }
    query = select(EvaluationAnswer).where(
        EvaluationAnswer.candidate_id.in_([one.id for one in candidates]),
        EvaluationAnswer.number.in_(numbers),
    )
    given = {(one.candidate_id, one.number): one for one in db.scalars(query)}
    judged = keeping.of_rows(db, candidates, numbers)
    for row in found:
        row.judgements = [judged.get((one.id, row.number), []) for one in candidates]
        row.messages = asked[row.number].messages
        row.reference = asked[row.number].reference
        row.answers = [given.get((one.id, row.number)) for one in candidates]
