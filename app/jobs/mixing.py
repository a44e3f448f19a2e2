"""How many rows of each dataset an epoch has, and which of them. Pure: the console counts with it
before a run, and the run draws with it.

A *multiplier* m takes floor(m) whole copies of a dataset and a seeded sample, without replacement,
of the rest: 2.5 is every row twice and half of the rows once more. A *share* is the percentage of
all rows of the epoch that a dataset shall make up; the datasets with a multiplier make up what the
shares leave.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from app.errors import N_, Invalid

MOST_COPIES = 10  # of a row in an epoch: a multiplier's limit, and so a share's


@dataclass(frozen=True)
class Amount:
    """`rows` that are there, and how many of them are wanted: a multiplier or a share (%)."""

    rows: int
    multiplier: float | None = 1.0
    share: float | None = None


def effective(amounts: Sequence[Amount]) -> list[int]:
    """Rows of each in an epoch, at least one. Their order does not change the counts.

    Raises Invalid when the shares leave nothing to the multipliers, or need too many copies.
    """
    multiplied = {
        number: max(1, nearest(one.rows * exact(one.multiplier)))
        for number, one in enumerate(amounts)
        if one.multiplier is not None
    }
    shared = sum((exact(one.share) for one in amounts if one.share is not None), Decimal(0))
    if shared >= 100 or not multiplied:
        raise Invalid(
            N_(
                "The shares make %(percent)s %%, which leaves nothing for the datasets that have a"
                " multiplier. Together they must stay below 100 %%."
            ),
            code="mix.shares",
            field="datasets",
            percent=f"{shared:f}",
        )
    whole = sum(multiplied.values()) / (1 - shared / 100)
    found = []
    for number, one in enumerate(amounts):
        wanted = multiplied.get(number)
        if wanted is None:
            assert one.share is not None
            wanted = max(1, nearest(whole * exact(one.share) / 100))
            if wanted > MOST_COPIES * one.rows:
                raise Invalid(
                    N_(
                        "A share of %(percent)s %% is %(wanted)s rows, more than %(most)s times the"
                        " %(rows)s rows that the dataset has."
                    ),
                    code="mix.copies",
                    field=f"datasets.{number}.share",
                    percent=f"{one.share:g}",
                    wanted=wanted,
                    most=MOST_COPIES,
                    rows=one.rows,
                )
        found.append(wanted)
    return found


def exact(value: float | None) -> Decimal:
    """As it was typed: 0.1 is a tenth."""
    return Decimal(str(value))


def nearest(value: Decimal) -> int:
    """Halves go up."""
    return int(value + Decimal("0.5"))


def copies(rows: int, wanted: int, seed: int, key: str) -> Iterator[int]:
    """How often each of `rows` rows stands in an epoch that has `wanted` of them, in order.

    Lazily, in constant memory. `key` names the dataset: which rows are drawn depends on it and on
    the seed, and on nothing that stands beside it.
    """
    if not rows:
        return
    whole, need = divmod(wanted, rows)
    chance = random.Random(f"{seed} {key}")  # noqa: S311 - an order, not a secret
    for left in range(rows, 0, -1):
        drawn = bool(need) and chance.random() * left < need
        need -= drawn
        yield whole + drawn


def held_back(rows: int, share: float, most: int) -> int:
    """How many of `rows` rows a split holds back, at most: their duplicates go with them.

    Raises Invalid when too few are there to hold any back.
    """
    if rows < 2:
        raise Invalid(
            N_("The dataset has too few rows to hold some back for validation."),
            code="split.rows",
            field="validation",
        )
    return max(1, min(nearest(rows * exact(share)), most, rows - 1))
