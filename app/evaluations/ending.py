"""The end of an evaluation, or a pause: engines go, scores become figures and verdicts."""

from typing import Any

from app.errors import N_, Conflict, DomainError
from app.evaluations import engines, figures, holding
from app.evaluations.judging import keeping
from app.evaluations.tables import Candidate, Evaluation
from app.queue import transaction

NO_ANSWERS = N_("No candidate gave an answer. The reason stands beside each of them.")


def end(evaluation: Evaluation, error: DomainError | None = None) -> Evaluation:
    """As was asked for, or as it went. Raises Lost."""
    found = holding.candidates(evaluation.id)
    for one in found:
        engines.release(one.id)
    verdicts = figures_of(evaluation) if error is None else {}
    if error is None and all(one.done == one.failed for one in found):
        error = Conflict(NO_ANSWERS, code="no_answers")
    error = error or keeping.refusal(evaluation)
    state = "failed" if error else "succeeded"
    columns: dict[str, Any] = {"verdicts": verdicts}
    if error is not None:
        columns["error"] = error.kept()
    return holding.end(evaluation.id, evaluation.fence, state, **columns)


def figures_of(evaluation: Evaluation) -> dict[str, Any]:
    """Each candidate's figures are stored; the verdicts beside the baseline are returned."""
    with transaction() as db:
        candidates = holding.of(db, evaluation.id)
        rows = figures.facts(db, evaluation.id)
        scorers = keeping.widened(evaluation.scorers)
        scores = {one.id: figures.load(db, one.id, scorers) for one in candidates}
        unscored = keeping.unscored(db, list(scores))
    figured = {
        of: {key: figures.figure(one, rows) for key, one in scores[of].items()} for of in scores
    }
    for key in scores[candidates[0].id]:
        several = figures.binned([scores[one.id][key] for one in candidates])
        for one, bins in zip(candidates, several, strict=True):
            figured[one.id][key]["bins"] = bins
    for (of, key), count in unscored.items():
        figured[of][key]["unscored"] = count
    base = scores[candidates[0].id]
    first = evaluation.scorers[0]["key"]
    for one in candidates:
        beside = base[first] if one is not candidates[0] else None
        if one is not candidates[0] or len(candidates) == 1:
            figured[one.id][first]["where"] = figures.where(scores[one.id][first], beside, rows)
    with transaction() as db:
        for one in candidates:
            db.get_one(Candidate, one.id).figures = figured[one.id]
    return {
        one.id: {
            key: figures.verdict(mine, base[key], rows).stored()
            for key, mine in scores[one.id].items()
        }
        for one in candidates[1:]
    }
