"""What an hour of a device costs, where an administrator has said so."""

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts import audit
from app.db import now
from app.quotas.tables import Price


def all_of(db: Session) -> Sequence[Price]:
    """The general price first."""
    return db.scalars(select(Price).order_by(Price.device)).all()


def of(db: Session, device: str) -> Price | None:
    """Of a device by its model's name, else the general price; None where none is set."""
    return db.scalar(
        select(Price).where(Price.device.in_({"", device})).order_by(Price.device.desc()).limit(1)
    )


def put(db: Session, device: str, hour: Decimal | None, currency: str) -> None:
    """Set the price of an hour; None takes it away. `device` empty: of all without their own."""
    known = db.get(Price, device)
    before = {"hour": known.hour, "currency": known.currency} if known else {}
    if hour is None:
        db.execute(delete(Price).where(Price.device == device))
        if known:
            audit.note(db, "delete", "price", device, name=device, before=before)
        return
    after = {"hour": hour, "currency": currency}
    audit.note(
        db,
        "update" if known else "create",
        "price",
        device,
        name=device,
        before=before,
        after=after,
    )
    row = {"device": device, "hour": hour, "currency": currency, "updated_at": now()}
    db.execute(
        insert(Price).values(**row).on_conflict_do_update(index_elements=[Price.device], set_=row)
    )
