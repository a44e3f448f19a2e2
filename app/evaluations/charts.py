"""What the charts of an evaluation draw. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.evaluations.scorers.scoring import UNBOUNDED
from app.evaluations.tables import Candidate

MARGIN = 0.06  # of the width, left free on either side of intervals


def distributions(
    scorers: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """Of each scorer with scores: {key, kind, bins: [low, high], series: [{label, rows}]}, the rows
    by bin. Of perplexity the bins are perplexities, though rows have the mean of their tokens'
    negative log-likelihoods.
    """
    found = []
    for one in scorers:
        with_bins = [each for each in candidates if each.figures.get(one["key"], {}).get("bins")]
        if not with_bins:
            continue
        bins = with_bins[0].figures[one["key"]]["bins"]
        shown = math.exp if one["kind"] in UNBOUNDED else float
        found.append(
            {
                "key": one["key"],
                "kind": one["kind"],
                "bins": [[shown(low), shown(high)] for low, high, _ in bins],
                "series": [
                    {"label": each.label, "rows": [rows for *_, rows in of["bins"]]}
                    for each in with_bins
                    if (of := each.figures[one["key"]])
                ],
            }
        )
    return found


def spans(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Where {low, value, high} of each line stand on an axis that all share, in percent of it."""
    if not lines:
        return []
    start, end = min(one["low"] for one in lines), max(one["high"] for one in lines)
    whole = (end - start) or 1.0

    def place(value: float) -> float:
        return float(round(100 * (MARGIN + (1 - 2 * MARGIN) * (value - start) / whole), 2))

    return [{name: place(one[name]) for name in ("low", "value", "high")} for one in lines]
