"""What an hour of a device and 1,000 tokens cost, from when on.

A price is never changed afterwards: what was used before its time keeps the price it had.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts import audit
from app.db import now
from app.errors import N_, Invalid
from app.quotas.tables import Price

DEVICE = "device"
TOKENS = ("input", "cached", "output", "trained")
KINDS = (DEVICE, *TOKENS)
UTC = ZoneInfo("UTC")


@dataclass(frozen=True)
class Hour:
    """What an hour of a device costs now. `device` empty: of all without their own."""

    device: str
    hour: Decimal
    currency: str


class Book:
    """All prices, to look many up at once."""

    def __init__(self, rows: Iterable[Price]) -> None:
        self.rows: dict[tuple[str, str], list[Price]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row.since):
            self.rows[row.kind, row.what].append(row)

    def __bool__(self) -> bool:
        return bool(self.rows)

    def at(self, kind: str, whats: Sequence[str], moment: datetime) -> Price | None:
        """The price then: of the first of `whats` that has one, else the general one."""
        for what in dict.fromkeys((*whats, "")):
            found = None
            for row in self.rows.get((kind, what), ()):
                if row.since <= moment:
                    found = row
            if found is not None and found.amount is not None:
                return found
        return None


def book(db: Session) -> Book:
    return Book(db.scalars(select(Price).execution_options(populate_existing=True)))


def all_of(db: Session) -> list[Hour]:
    """Of devices, as they are now; the general price first."""
    found = book(db)
    names = sorted(what for kind, what in found.rows if kind == DEVICE)
    return [
        Hour(name, price.amount, price.currency)
        for name in names
        if (price := found.at(DEVICE, [name], now()))
        and price.what == name
        and price.amount is not None
    ]


def of(db: Session, device: str) -> Hour | None:
    """Of a device by its model's name, else the general price; None where none is set."""
    price = book(db).at(DEVICE, [device], now())
    if price is None or price.amount is None:
        return None
    return Hour(price.what, price.amount, price.currency)


def put(db: Session, device: str, hour: Decimal | None, currency: str) -> None:
    """The price of an hour from now on; None takes it away. `device` empty: the general one."""
    change(db, DEVICE, device, hour, currency)


def change(
    db: Session,
    kind: str,
    what: str,
    amount: Decimal | None,
    currency: str,
    first_day: date | None = None,
) -> None:
    """A price from the start of `first_day` (UTC), or from now on; None takes it away.

    What was planned for later days stays. Raises Invalid for a day that has begun.
    """
    since = datetime.combine(first_day, time(), UTC) if first_day else now()
    if since < now() and first_day:
        if first_day != now().date():
            raise Invalid(
                N_("A price begins today or later: what was used before keeps the price it had."),
                field="first_day",
            )
        since = now()
    known = book(db).at(kind, [what], since)
    before = {"amount": known.amount, "currency": known.currency} if known else {}
    audit.note(
        db,
        "delete" if amount is None else "update" if known else "create",
        "price",
        f"{kind}/{what}",
        name=what or kind,
        before=before,
        after={} if amount is None else {"amount": amount, "currency": currency, "since": since},
    )
    row = {
        "kind": kind,
        "what": what,
        "since": since,
        "amount": amount,
        "currency": currency,
        "updated_at": now(),
    }
    db.execute(
        insert(Price)
        .values(**row)
        .on_conflict_do_update(index_elements=["kind", "what", "since"], set_=row)
    )


def forget(db: Session, kind: str, what: str, since: datetime) -> None:
    """A price that has not begun yet does not come. One that has, stays."""
    db.execute(
        delete(Price).where(
            Price.kind == kind, Price.what == what, Price.since == since, Price.since > now()
        )
    )
