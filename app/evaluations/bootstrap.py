"""Is one better than the other, and by how much: the paired bootstrap (Koehn 2004; Efron 1979).

Rows are drawn with replacement, the same for both, and the figures of each draw are compared. The
interval is that of the middle 95 % of the differences.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = Any  # numpy's, which mypy does not look into
RESAMPLES = 10_000
SEED = 20_260_101
CELLS = 2**22  # counts held at a time
FEWEST = 5  # rows, below which nothing is said


@dataclass(frozen=True)
class Compared:
    """`verdict` is better, worse, same (no difference that 95 % certainty sees), or few."""

    verdict: str
    rows: int
    value: float
    baseline: float
    difference: float
    low: float
    high: float
    p: float  # two-sided

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def draws(counts: Array, resamples: int, seed: int) -> Any:
    """How often each kind of row is drawn, a few resamples at a time: (some, kinds). `counts`: how
    many rows there are of each kind.
    """
    rng = np.random.default_rng(seed)
    kinds, rows = len(counts), int(counts.sum())
    step = max(1, min(resamples, CELLS // max(min(kinds, rows), 1)))
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        if kinds < rows:
            yield rng.multinomial(rows, counts / rows, size=some).astype(np.float64)
        else:
            picked = rng.integers(0, rows, size=(some, rows), dtype=np.int64)
            picked += np.arange(some)[:, None] * rows
            drawn = np.bincount(picked.ravel(), minlength=some * rows)
            yield drawn.reshape(some, rows).astype(np.float64)


def grouped(rows: Array, counts: Array | None) -> tuple[Array, Array]:
    """The kinds of rows that there are, and how many of each: to draw rows is to draw kinds, and
    of answers that are right or wrong there are few.
    """
    if counts is not None:
        return rows, np.asarray(counts)
    kinds, found = np.unique(rows, axis=0, return_counts=True)
    return (kinds, found) if len(kinds) * 8 <= len(rows) else (rows, np.ones(len(rows), dtype=int))


def compare(
    figure: Callable[[Array], Array],
    ours: Array,
    theirs: Array,
    *,
    counts: Array | None = None,
    lower: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Compared:
    """`ours` and `theirs` are what sums up, (rows, d) each, of the same rows; `figure` makes
    numbers of sums (…, d). `counts`: how often each of the rows stands there; left out, once.
    `lower`: less is better.
    """
    width = ours.shape[1]
    both, each = grouped(np.concatenate([ours, theirs], axis=1), counts)
    rows = int(each.sum())
    total = each @ both if rows else np.zeros(2 * width)
    value, baseline = float(figure(total[:width])), float(figure(total[width:]))
    gap = value - baseline
    if rows < FEWEST:
        return Compared("few", rows, value, baseline, gap, gap, gap, 1.0)
    found = []
    for drawn in draws(each, resamples, seed):
        sums = drawn @ both
        found.append(figure(sums[:, :width]) - figure(sums[:, width:]))
    gaps = np.concatenate(found)
    low, high = (float(one) for one in np.quantile(gaps, (0.025, 0.975)))
    tail = min((gaps <= 0).mean(), (gaps >= 0).mean())
    verdict = "same" if low <= 0 <= high else ("better" if (gap > 0) != lower else "worse")
    return Compared(verdict, rows, value, baseline, gap, low, high, min(1.0, 2 * float(tail)))


def interval(
    figure: Callable[[Array], Array],
    ours: Array,
    *,
    counts: Array | None = None,
    resamples: int = 2_000,
    seed: int = SEED,
) -> tuple[float, float]:
    """The middle 95 % of a figure itself."""
    kinds, each = grouped(ours, counts)
    if not len(kinds):
        return 0.0, 0.0
    found = [figure(drawn @ kinds) for drawn in draws(each, resamples, seed)]
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975))
    return float(low), float(high)
