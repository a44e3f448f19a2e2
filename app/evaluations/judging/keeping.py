"""What judges said, as it is kept, and the scores that answers have by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db import now
from app.errors import Conflict, DomainError
from app.evaluations.holding import held
from app.evaluations.judging import prompts
from app.evaluations.scorers.schemas import Embedding, Judge, Options, Perplexity
from app.evaluations.states import note
from app.evaluations.tables import Candidate, Evaluation, EvaluationAnswer, EvaluationJudgement
from app.queue import transaction

COUNTS = ("done", "failed", "prompt_tokens", "completion_tokens")
TIE = 0.5


@dataclass
class Judgement:
    """What came of asking once about a row. `error` where nothing could be made of it."""

    number: int
    swapped: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    winner: str = ""  # ours, theirs, tie
    reason: str = ""
    error: dict[str, Any] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def said(candidate_id: str, key: str) -> set[tuple[int, bool]]:
    """The rows about which the judge was asked already, and in which order."""
    query = select(EvaluationJudgement.number, EvaluationJudgement.swapped).where(
        EvaluationJudgement.candidate_id == candidate_id, EvaluationJudgement.scorer == key
    )
    with transaction() as db:
        return {(number, swapped) for number, swapped in db.execute(query)}


def texts(candidate_ids: Sequence[str], numbers: Sequence[int]) -> dict[tuple[str, int], str]:
    """Answers by candidate and row, where there are any."""
    query = select(EvaluationAnswer.candidate_id, EvaluationAnswer.number, EvaluationAnswer.text)
    query = query.where(
        EvaluationAnswer.candidate_id.in_(candidate_ids),
        EvaluationAnswer.number.in_(numbers),
        EvaluationAnswer.text.is_not(None),
    )
    with transaction() as db:
        return {(candidate, number): str(text) for candidate, number, text in db.execute(query)}


def answered(candidate_id: str) -> set[int]:
    """The rows with an answer that can be judged."""
    query = select(EvaluationAnswer.number).where(
        EvaluationAnswer.candidate_id == candidate_id, EvaluationAnswer.text.is_not(None)
    )
    with transaction() as db:
        return set(db.scalars(query))


def store(
    evaluation: Evaluation,
    scorer: Options,
    candidate_id: str,
    base_id: str,
    several: Sequence[Judgement],
) -> None:
    """Keep them, count them, and score the answers. What is there already stays. Raises Lost."""
    at = now()
    rows = [
        {"candidate_id": candidate_id, "scorer": scorer.key, "at": at, **vars(one)}
        for one in several
    ]
    with transaction() as db:
        found = held(db, evaluation.id, evaluation.fence)
        found.beat_at = at
        adding = insert(EvaluationJudgement).on_conflict_do_nothing()
        made = adding.returning(EvaluationJudgement.number, EvaluationJudgement.swapped)
        new = {(number, swapped) for number, swapped in db.execute(made, rows)}
        fresh = [one for one in several if (one.number, one.swapped) in new]
        found.judging = counted(found.judging, fresh)
        numbers = sorted({one.number for one in fresh})
        settle(db, scorer, candidate_id, base_id, numbers)


def counted(before: Mapping[str, Any], fresh: Sequence[Judgement]) -> dict[str, Any]:
    more = {
        "done": len(fresh),
        "failed": sum(one.error is not None for one in fresh),
        "prompt_tokens": sum(one.prompt_tokens for one in fresh),
        "completion_tokens": sum(one.completion_tokens for one in fresh),
    }
    return {**before, **{name: before.get(name, 0) + more[name] for name in COUNTS}}


def settle(
    db: Session, scorer: Options, candidate_id: str, base_id: str, numbers: Sequence[int]
) -> None:
    """The scores of these rows' answers, of what judges said by now."""
    given: dict[int, list[EvaluationJudgement]] = {}
    for one in db.scalars(
        select(EvaluationJudgement).where(
            EvaluationJudgement.candidate_id == candidate_id,
            EvaluationJudgement.scorer == scorer.key,
            EvaluationJudgement.number.in_(numbers),
        )
    ):
        given.setdefault(one.number, []).append(one)
    answers = {
        (one.candidate_id, one.number): one
        for one in db.scalars(
            select(EvaluationAnswer).where(
                EvaluationAnswer.candidate_id.in_([candidate_id, base_id]),
                EvaluationAnswer.number.in_(numbers),
            )
        )
    }
    for number, several in given.items():
        ours = answers[candidate_id, number]
        if isinstance(scorer, Judge):
            ours.scores = {**ours.scores, **marks(scorer, several[0])}
        elif isinstance(scorer, Embedding):
            near = several[0].scores.get("cosine")
            more = {} if near is None else {scorer.key: min(max(float(near), 0.0), 1.0)}
            ours.scores = {**ours.scores, **more}
        elif isinstance(scorer, Perplexity):
            if several[0].error is None:
                nll, count = several[0].scores["nll"], several[0].scores["tokens"]
                ours.scores = {**ours.scores, scorer.key: nll / count}
                ours.parts = {**ours.parts, scorer.key: [nll, count]}
        elif word := outcome(several):
            ours.scores = {**ours.scores, scorer.key: {"win": 1.0, "loss": 0.0}.get(word, TIE)}
            ours.said = {**ours.said, scorer.key: word}
            theirs = answers[base_id, number]
            theirs.scores = {**theirs.scores, scorer.key: TIE}


def marks(scorer: Judge, one: EvaluationJudgement) -> dict[str, float]:
    """From 0 to 1: the mean, and each dimension where there are several."""
    if one.error is not None:
        return {}
    each = {key: (float(value) - 1) / (scorer.scale - 1) for key, value in one.scores.items()}
    found = {scorer.key: sum(each.values()) / len(each)}
    if set(each) != {prompts.WHOLE}:
        found |= {f"{scorer.key}/{key}": value for key, value in each.items()}
    return found


def outcome(several: Sequence[EvaluationJudgement]) -> str:
    """Of a pair asked both ways: win, loss, tie, or split where the two differ; empty while one is
    missing.
    """
    if len(several) < 2 or any(one.error is not None for one in several):
        return ""
    first, second = (one.winner for one in several)
    if first != second:
        return "split"
    return {"ours": "win", "theirs": "loss"}.get(first, "tie")


# -- what a judge does not say at all ----------------------------------------------------


def refuse(evaluation: Evaluation, key: str, error: DomainError) -> None:
    """The judge of this scorer gives nothing, and why. Raises Lost."""
    with transaction() as db:
        found = held(db, evaluation.id, evaluation.fence)
        errors = {**found.judging.get("errors", {}), key: error.kept()}
        found.judging = {**found.judging, "errors": errors}


def begin(evaluation: Evaluation, key: str, message: str, name: str) -> None:
    """What went wrong before is forgotten, and the event written once. Raises Lost."""
    with transaction() as db:
        found = held(db, evaluation.id, evaluation.fence)
        state = dict(found.judging)
        state["errors"] = {of: why for of, why in state.get("errors", {}).items() if of != key}
        begun = state.get("begun", [])
        if key not in begun:
            note(db, found.id, "judge", message, {"name": name})
        state["begun"] = [*begun, *([] if key in begun else [key])]
        found.judging = state


def refusal(evaluation: Evaluation) -> DomainError | None:
    """Why the scorer that decides the verdict has nothing to say."""
    with transaction() as db:
        judging = db.get_one(Evaluation, evaluation.id).judging
    told = judging.get("errors", {}).get(evaluation.scorers[0]["key"])
    return Conflict(told["message"], code=told["code"], **told["params"]) if told else None


# -- figures -----------------------------------------------------------------------------


def widened(scorers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scorers, each judge followed by one for each of its dimensions."""
    found: list[dict[str, Any]] = []
    for one in scorers:
        found.append(dict(one))
        if one["kind"] == "judge" and one["dimensions"]:
            several = prompts.dimensions(one["dimensions"], one["language"])
            found += [{"key": f"{one['key']}/{each.key}", "kind": "judge"} for each in several]
    return found


def unscored(db: Session, candidate_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many rows judges made nothing of, by candidate and scorer."""
    rows = func.count(EvaluationJudgement.number.distinct())
    query = (
        select(EvaluationJudgement.candidate_id, EvaluationJudgement.scorer, rows)
        .where(
            EvaluationJudgement.candidate_id.in_(candidate_ids),
            EvaluationJudgement.error.is_not(None),
        )
        .group_by(EvaluationJudgement.candidate_id, EvaluationJudgement.scorer)
    )
    return {(candidate, key): count for candidate, key, count in db.execute(query)}


def of_rows(
    db: Session, candidates: Sequence[Candidate], numbers: Sequence[int]
) -> dict[tuple[str, int], list[EvaluationJudgement]]:
    """What was said of the answers, by candidate and row."""
    query = select(EvaluationJudgement).where(
        EvaluationJudgement.candidate_id.in_([one.id for one in candidates]),
        EvaluationJudgement.number.in_(numbers),
    )
    found: dict[tuple[str, int], list[EvaluationJudgement]] = {}
    for one in db.scalars(query.order_by(EvaluationJudgement.scorer, EvaluationJudgement.swapped)):
        found.setdefault((one.candidate_id, one.number), []).append(one)
    return found
