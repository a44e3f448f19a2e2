"""What people's ratings say: of each candidate, of the difference, and of each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import krippendorff
import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evaluations import figures
from app.evaluations.figures import Scores
from app.evaluations.tables import Candidate, Evaluation, EvaluationAnswer, Rating, RatingRound

SPANS = {"marks": (1, 5), "pairs": (1, 3)}
FEWEST = 3  # items, below which nothing is said of how two go together
Unit = tuple[str, int]  # candidate and row


def of(
    db: Session,
    one: RatingRound,
    evaluation: Evaluation,
    candidates: Sequence[Candidate],
    given: Sequence[Rating],
) -> dict[str, Any]:
    """{candidates, verdicts, agreement, scorers}; figures lie between 0 and 1, as scorers' do."""
    means = meant(one.kind, given)
    scores = {each.id: Scores("human") for each in candidates}
    for (candidate_id, number), value in means.items():
        scores[candidate_id].values[number] = value
        if one.kind == "pairs":  # the baseline's, by definition
            scores[candidates[0].id].values[number] = 0.5
    told = {each: figures.figure(found, {}) for each, found in scores.items()}
    base = scores[candidates[0].id]
    return {
        "candidates": told,
        "verdicts": {
            each.id: figures.verdict(scores[each.id], base, {}).stored() for each in candidates[1:]
        },
        "agreement": agreement(given),
        "scorers": beside(db, evaluation, means),
    }


def meant(kind: str, given: Sequence[Rating]) -> dict[Unit, float]:
    """The mean of all raters, from 0 to 1."""
    low, high = SPANS[kind]
    found: dict[Unit, list[int]] = {}
    for one in given:
        found.setdefault((one.candidate_id, one.number), []).append(one.value)
    return {
        unit: (sum(values) / len(values) - low) / (high - low) for unit, values in found.items()
    }


def agreement(given: Sequence[Rating]) -> dict[str, Any]:
    """{alpha, same, raters, items}: Krippendorff's alpha for ordered values, over the items that two
    or more have rated; `same`: how often two of them said the very same. None where there is nothing
    to compare, or everybody always said one thing.
    """
    raters = sorted({one.user_id for one in given})
    units = sorted({(one.candidate_id, one.number) for one in given})
    table = np.full((len(raters), len(units)), np.nan)
    at = {unit: place for place, unit in enumerate(units)}
    for one in given:
        table[raters.index(one.user_id), at[one.candidate_id, one.number]] = one.value
    table = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    found: dict[str, Any] = {"raters": len(raters), "items": int(table.shape[1])}
    values = np.unique(table[~np.isnan(table)])
    if len(values) < 2:
        return found | {"alpha": None, "same": 1.0 if table.shape[1] else None}
    alpha = krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    return found | {"alpha": round(float(alpha), 6), "same": round(same(table), 6)}


def same(table: Any) -> float:
    """Of all pairs of ratings of one item, the share that are equal."""
    equal = pairs = 0
    for column in table.T:
        said = column[~np.isnan(column)]
        _, counts = np.unique(said, return_counts=True)
        equal += int((counts * (counts - 1)).sum())
        pairs += len(said) * (len(said) - 1)
    return equal / pairs


def beside(
    db: Session, evaluation: Evaluation, means: Mapping[Unit, float]
) -> dict[str, dict[str, Any]]:
    """How each automatic scorer goes with people: Spearman's rank correlation over the same
    answers.
    """
    ids = {candidate_id for candidate_id, _ in means}
    query = select(EvaluationAnswer).where(EvaluationAnswer.candidate_id.in_(ids))
    scores = {(each.candidate_id, each.number): each.scores for each in db.scalars(query)}
    found = {}
    for scorer in evaluation.scorers:
        key = scorer["key"]
        units = [unit for unit in means if scores.get(unit, {}).get(key) is not None]
        theirs = [float(scores[unit][key]) for unit in units]
        value = spearman([means[unit] for unit in units], theirs)
        found[key] = {"spearman": value, "items": len(units)}
    return found


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, equal values sharing theirs; None if one never varies."""
    if len(ours) < FEWEST or len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return round(float(np.corrcoef(ranks(ours), ranks(theirs))[0, 1]), 6)


def ranks(values: Sequence[float]) -> Any:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
