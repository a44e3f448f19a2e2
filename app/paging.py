"""Pages of lists: `after` is the id of the last entry that the reader has, `limit` how many more.

A page that begins behind an entry stays right while entries come and go before it, which `offset`
cannot promise.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query
from sqlalchemy import Select, and_, literal, or_
from sqlalchemy.orm import Session
from sqlalchemy.sql.operators import desc_op

from app.errors import N_, NotFound

T = TypeVar("T")
S = TypeVar("S", bound="Select[*tuple[Any, ...]]")
After = Annotated[
    str,
    Query(
        max_length=200,
        description="The id of the last entry that you have: the page goes on behind it.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=100, description="Entries, at most.")]


def gone(after: str) -> NotFound:
    return NotFound(
        N_("There is no entry %(id)s here to go on behind."), field="after", id=after[:200]
    )


def behind(db: Session, query: S, seen: S, order: Sequence[Any], key: Any, after: str) -> S:
    """`query` in the order of `order`, then of the id column `key`, from behind the row `after` on.

    `seen` is what the reader may see before any filter, so that a row that a filter lets go of
    meanwhile still marks its place. Raises NotFound.
    """
    places = [*order, key]
    if after:
        plain = [one.element if falls(one) else one for one in places]
        columns = seen.with_only_columns(*plain, maintain_column_froms=True)
        at = db.execute(columns.where(key == after).order_by(None)).first()
        if at is None:
            raise gone(after)
        query = query.where(or_(*later(places, plain, [literal(value) for value in at])))
    return query.order_by(*places)


def falls(place: Any) -> bool:
    """Whether an order goes down."""
    return getattr(place, "modifier", None) is desc_op


def later(places: list[Any], columns: list[Any], at: list[Any]) -> list[Any]:
    """For each place: the same before it, and past it there."""
    same = [column.self_group() == value for column, value in zip(columns, at, strict=True)]
    return [
        and_(*same[:number], column < value if falls(place) else column > value)
        for number, (place, column, value) in enumerate(zip(places, columns, at, strict=True))
    ]


def page(
    rows: Sequence[T],
    after: str,
    limit: int,
    key: Callable[[T], str] = lambda row: row.id,  # type: ignore[attr-defined]
) -> tuple[list[T], bool]:
    """A page of a short list, and whether there is more. Raises NotFound."""
    start = 0
    if after:
        ids = [key(row) for row in rows]
        if after not in ids:
            raise gone(after)
        start = ids.index(after) + 1
    return list(rows[start : start + limit]), len(rows) > start + limit
