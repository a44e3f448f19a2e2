"""What each row of the ledger costs: free quotas first, then by the prices of its time.

Exact: amounts are kept in 3,600,000ths of a unit of money, so that neither an hour's milliseconds
nor tokens by the thousand are ever divided. `money` divides and rounds, once, where one is shown.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.quotas import prices
from app.quotas.money_tables import Account, Charge, FreeQuota, FreeUse
from app.quotas.prices import Book

WHOLE = 3_600_000  # parts of a unit of money: an hour's milliseconds
A_TOKEN = 3600  # times the price of 1,000: parts of one token
CENT = Decimal("0.01")
FINE = Decimal("0.000001")
EXACT = Context(prec=60)


def money(parts: Decimal, places: Decimal = CENT) -> Decimal:
    """As money: to the cent, half to even."""
    return EXACT.divide(parts, Decimal(WHOLE)).quantize(places, ROUND_HALF_EVEN, EXACT)


def parts_of(amount: Decimal) -> Decimal:
    return EXACT.multiply(amount, Decimal(WHOLE))


Row = Mapping[str, Any]


def moment(row: Row) -> datetime:
    at = row["at"]
    return datetime.fromisoformat(at) if isinstance(at, str) else at


def whats(row: Row) -> list[str]:
    """By what a row's tokens are priced: its model, then the model's base."""
    return [one for one in (row.get("model_id"), row.get("base_id")) if one]


def cost(row: Row, book: Book, free: int) -> dict[str, Decimal]:
    """Currency → parts, of what is not free: `free` tokens or milliseconds of it are."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    at = moment(row)
    if row["kind"] == "device":
        price = book.at(prices.DEVICE, [row.get("device", "")], at)
        if price and price.amount:
            found[price.currency] += price.amount * (row["device_ms"] - free)
        return found
    cached = min(row.get("cached_tokens", 0), row.get("prompt_tokens", 0))
    counts = [
        ("input", row.get("prompt_tokens", 0) - cached),
        ("cached", cached),
        ("output", row.get("completion_tokens", 0)),
        ("trained", row.get("trained_tokens", 0)),
    ]
    for kind, count in counts:
        taken = min(free, count)
        free -= taken
        price = book.at(kind, whats(row), at)
        if price is None and kind == "cached":
            price = book.at("input", whats(row), at)
        if price and price.amount and count > taken:
            found[price.currency] += price.amount * (count - taken) * A_TOKEN
    return found


def charge(db: Session, rows: Sequence[Row]) -> None:
    """Of rows that have just come into the ledger. In their transaction, so once each."""
    book = prices.book(db)
    if not rows:
        return
    rows = sorted(rows, key=moment)
    free = take_free(db, rows)
    if not book and not free:
        return
    made = []
    owed: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in rows:
        for currency, parts in (
            cost(row, book, free.get(row["id"], 0)) or {"": Decimal(0)}
        ).items():
            if not currency and not free.get(row["id"]):
                continue
            made.append(
                {
                    "usage_id": row["id"],
                    "currency": currency,
                    "workspace_id": row["workspace_id"],
                    "at": moment(row),
                    "parts": parts,
                    "free": free.pop(row["id"], 0),
                }
            )
            if currency:
                owed[row["workspace_id"], currency] += parts
    if made:
        db.execute(insert(Charge).on_conflict_do_nothing(), made)
    for (workspace_id, currency), parts in sorted(owed.items()):
        change_account(db, workspace_id, currency, -parts)


def change_account(db: Session, workspace_id: str, currency: str, parts: Decimal) -> None:
    db.execute(
        insert(Account)
        .values(
            workspace_id=workspace_id,
            currency=currency,
            parts=parts,
            full=Decimal(0),
            prepaid=False,
        )
        .on_conflict_do_update(
            index_elements=["workspace_id", "currency"], set_={"parts": Account.parts + parts}
        )
    )


# -- free quotas -------------------------------------------------------------------------


def take_free(db: Session, rows: Sequence[Row]) -> dict[str, int]:
    """Row id → tokens or milliseconds that cost nothing; they are counted as used."""
    asked = [row for row in rows if row["kind"] in ("tokens", "device") and whats(row)]
    models = {one for row in asked for one in whats(row)}
    if not models:
        return {}
    quotas = db.scalars(
        select(FreeQuota).where(FreeQuota.model_id.in_(models)).order_by(FreeQuota.last_day)
    ).all()
    taken: dict[str, int] = {}
    for row in asked:
        day = moment(row).date()
        for one in quotas:
            if (
                one.kind == row["kind"]
                and one.model_id in whats(row)
                and one.last_day >= day
                and one.workspace_id in (None, row["workspace_id"])
            ):
                wanted = amount_of(row) - taken.get(row["id"], 0)
                if wanted > 0:
                    got = use(db, one, row["workspace_id"], wanted)
                    taken[row["id"]] = taken.get(row["id"], 0) + got
    return {row_id: count for row_id, count in taken.items() if count}


def amount_of(row: Row) -> int:
    if row["kind"] == "device":
        return int(row["device_ms"])
    return int(row.get("prompt_tokens", 0)) + int(row.get("completion_tokens", 0))


def use(db: Session, free: FreeQuota, workspace_id: str, wanted: int) -> int:
    """Take up to `wanted` of what is left; how many were."""
    db.execute(
        insert(FreeUse)
        .values(free_id=free.id, workspace_id=workspace_id, used=0)
        .on_conflict_do_nothing()
    )
    row = db.get_one(FreeUse, (free.id, workspace_id), with_for_update=True, populate_existing=True)
    got = max(0, min(wanted, free.amount - row.used))
    row.used += got
    db.flush()
    return got


def free_left(db: Session, workspace_id: str, day: Any, model_ids: Sequence[str] = ()) -> list[Any]:
    """(FreeQuota, used), of those that count on that day, the one that ends first first."""
    query = (
        select(FreeQuota, func.coalesce(FreeUse.used, 0))
        .outerjoin(
            FreeUse, (FreeUse.free_id == FreeQuota.id) & (FreeUse.workspace_id == workspace_id)
        )
        .where(
            or_(FreeQuota.workspace_id.is_(None), FreeQuota.workspace_id == workspace_id),
            FreeQuota.last_day >= day,
        )
        .order_by(FreeQuota.last_day, FreeQuota.id)
    )
    if model_ids:
        query = query.where(FreeQuota.model_id.in_(model_ids))
    return list(db.execute(query).all())
