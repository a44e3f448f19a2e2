"""From the scores of rows to figures, verdicts, and where the difference lies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evaluations.bootstrap import Compared, compare, interval
from app.evaluations.scorers import labels, scoring
from app.evaluations.tables import EvaluationAnswer, EvaluationRow

SLICES = ("label", "length", "source")
BUCKETS = (0, 50, 100, 200, 500, 1000, 2000, 5000)  # characters of a prompt: from here on
FEW_RESAMPLES = 2_000  # of a part of the rows
BINS = 20  # that scores are counted in, where they are more than a few different ones
FEW_VALUES = 11
Array = Any  # numpy's, which mypy does not look into


@dataclass
class Scores:
    """Of one candidate and scorer, by row."""

    kind: str
    names: Sequence[str] = ()  # labels, of scorers that have any
    values: dict[int, float] = field(default_factory=dict)
    parts: dict[int, Any] = field(default_factory=dict)
    said: dict[int, str] = field(default_factory=dict)


def load(db: Session, candidate_id: str, scorers: Sequence[Mapping[str, Any]]) -> dict[str, Scores]:
    """By the scorer's key."""
    found = {one["key"]: Scores(one["kind"], tuple(one.get("labels") or ())) for one in scorers}
    query = select(
        EvaluationAnswer.number,
        EvaluationAnswer.scores,
        EvaluationAnswer.parts,
        EvaluationAnswer.said,
    ).where(EvaluationAnswer.candidate_id == candidate_id)
    for number, scores, parts, said in db.execute(query):
        for key, one in found.items():
            if (value := scores.get(key)) is not None:
                one.values[number] = float(value)
            if key in parts:
                one.parts[number] = parts[key]
            if key in said:
                one.said[number] = said[key]
    return found


def facts(db: Session, evaluation_id: str) -> dict[int, EvaluationRow]:
    query = select(EvaluationRow).where(EvaluationRow.evaluation_id == evaluation_id)
    return {one.number: one for one in db.scalars(query)}


def figure(of: Scores, rows: Mapping[int, EvaluationRow]) -> dict[str, Any]:
    """{value, low, high, rows}; of labels also {labels, table, precision, recall, f1}."""
    numbers = sorted(of.values)
    sums, counts = summed([of], numbers, rows)
    make = partial(scoring.figure, of.kind)
    known = counts if of.kind == "f1" else None
    total = counts @ sums[0] if numbers else np.zeros(2)
    value = float(make(total)) if numbers else None
    low, high = interval(make, sums[0], counts=known) if numbers else (None, None)
    found: dict[str, Any] = {"value": value, "low": low, "high": high, "rows": len(numbers)}
    if of.kind == "pairwise" and of.said:
        found |= dict.fromkeys(("win", "tie", "split", "loss"), 0) | Counter(of.said.values())
    if of.names:
        wanted = [rows[number].label for number in numbers]
        table = labels.confusion(wanted, [of.said.get(n, "") for n in numbers], of.names)
        each = dict(zip(("precision", "recall", "f1"), labels.rates(table), strict=True))
        found |= {"labels": list(of.names), "table": table.tolist()}
        found |= {name: [round(float(one), 6) for one in got] for name, got in each.items()}
    return found


def summed(
    several: Sequence[Scores], numbers: Sequence[int], rows: Mapping[int, EvaluationRow]
) -> tuple[list[Array], Array]:
    """What sums up, (kinds, d) for each candidate, and how many rows there are of each kind."""
    kind, names = several[0].kind, several[0].names
    if kind == "f1":
        kinds = Counter(
            (rows[number].label, *(one.said.get(number, "") for one in several))
            for number in numbers
        )
        columns = list(zip(*kinds, strict=True)) or [()] * (len(several) + 1)
        found = [scoring.one_hot(columns[0], said, names) for said in columns[1:]]
        return found, np.fromiter(kinds.values(), dtype=np.int64)
    found = [
        scoring.summed(
            kind,
            [one.values[number] for number in numbers],
            [one.parts.get(number) for number in numbers],
        )
        for one in several
    ]
    return found, np.ones(len(numbers), dtype=np.int64)


def verdict(
    ours: Scores,
    theirs: Scores,
    rows: Mapping[int, EvaluationRow],
    numbers: Sequence[int] | None = None,
    **options: Any,
) -> Compared:
    """Over the rows that both have answered, or of `numbers` those."""
    both = ours.values.keys() & theirs.values.keys()
    chosen = sorted(both if numbers is None else both.intersection(numbers))
    (one, other), counts = summed([ours, theirs], chosen, rows)
    return compare(
        partial(scoring.figure, ours.kind),
        one,
        other,
        counts=counts if ours.kind == "f1" else None,
        lower=ours.kind in scoring.LOWER_IS_BETTER,
        **options,
    )


def binned(several: Sequence[Scores]) -> list[list[list[float]]]:
    """How the scores of one scorer lie: of each candidate [low, high, rows] by bin, the same bins
    for all. A few different scores are a bin each; else there are `BINS` of the same width.
    """
    each = [np.fromiter(one.values.values(), dtype=np.float64) for one in several]
    every = np.unique(np.concatenate(each)) if each else np.zeros(0)
    if len(every) <= FEW_VALUES:
        return [
            [[float(value), float(value), int((mine == value).sum())] for value in every]
            for mine in each
        ]
    plain = several[0].kind not in scoring.UNBOUNDED
    edges = np.linspace(0, 1, BINS + 1) if plain else np.linspace(every[0], every[-1], BINS + 1)
    counts = [np.histogram(mine, edges)[0] for mine in each]
    return [
        [
            [round(float(low), 6), round(float(high), 6), int(rows)]
            for low, high, rows in zip(edges, edges[1:], found, strict=False)
        ]
        for found in counts
    ]


# -- where -------------------------------------------------------------------------------


def bucket(length: int) -> str:
    """50–99 and the like, by characters of the prompt."""
    at = max(place for place, start in enumerate(BUCKETS) if start <= length)
    if at + 1 == len(BUCKETS):
        return f"≥ {BUCKETS[at]}"
    return f"{BUCKETS[at]}–{BUCKETS[at + 1] - 1}"


def parts(rows: Mapping[int, EvaluationRow], by: str) -> dict[str, list[int]]:
    """The rows of each part, in a sensible order; empty where all are in one."""
    found: dict[str, list[int]] = {}
    for number, row in sorted(
        rows.items(), key=lambda item: (item[1].length if by == "length" else 0, item[0])
    ):
        name = bucket(row.length) if by == "length" else getattr(row, by)
        found.setdefault(name, []).append(number)
    return found if len(found) > 1 else {}


def where(
    ours: Scores, theirs: Scores | None, rows: Mapping[int, EvaluationRow]
) -> dict[str, list[dict[str, Any]]]:
    """By slice, the figure of each part, and its verdict where there is something to compare."""
    found: dict[str, list[dict[str, Any]]] = {}
    for by in SLICES:
        for name, numbers in parts(rows, by).items():
            if theirs is not None:
                got = verdict(ours, theirs, rows, numbers, resamples=FEW_RESAMPLES).stored()
            else:
                there = [number for number in numbers if number in ours.values]
                sums, counts = summed([ours], there, rows)
                value = float(scoring.figure(ours.kind, counts @ sums[0])) if there else None
                got = {"rows": len(there), "value": value}
            found.setdefault(by, []).append({"name": name, **got})
    return found
