"""Prices of models' tokens and free quotas, by the models' names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.db import now
from app.errors import N_, NotFound
from app.models import service as models
from app.models.tables import Model
from app.quotas import free, prices
from app.quotas.money_tables import FreeQuota
from app.quotas.tables import Price


@dataclass(frozen=True)
class Tariff:
    """A price of 1,000 tokens. `model` empty: of all without their own."""

    kind: str
    model_id: str
    model: str
    amount: Decimal | None
    currency: str
    since: datetime

    @property
    def planned(self) -> bool:
        return self.since > now()


def listed(db: Session) -> list[Tariff]:
    """Of tokens, what counts now and what is planned; the general ones first."""
    rows = db.scalars(
        select(Price)
        .where(Price.kind.in_(prices.TOKENS))
        .order_by(Price.what, Price.kind, Price.since)
    ).all()
    names = names_of(db, [row.what for row in rows])
    found: dict[tuple[str, str, bool, datetime | None], Tariff] = {}
    for row in rows:
        planned = row.since > now()
        key = (row.what, row.kind, planned, row.since if planned else None)
        found[key] = Tariff(
            row.kind, row.what, names.get(row.what, row.what), row.amount, row.currency, row.since
        )
    return [one for one in found.values() if one.amount is not None or one.planned]


def names_of(db: Session, ids: Sequence[str]) -> dict[str, str]:
    return dict(db.execute(select(Model.id, Model.name).where(Model.id.in_(set(ids)))).all())


def model_id(db: Session, who: Principal, name: str) -> str:
    """Of a model by its id or name, shared or of this workspace; any by its id for a platform
    admin. Raises NotFound.
    """
    if who.is_platform_admin and (found := db.get(Model, name)) is not None:
        return found.id
    return models.get(db, who.workspace_id, name).id


def change(
    db: Session,
    who: Principal,
    model: str,
    amounts: Mapping[str, Decimal | None],
    currency: str,
    first_day: date | None,
) -> None:
    """Prices of 1,000 tokens by kind; None takes one away. Raises NotFound, Invalid."""
    what = model_id(db, who, model) if model else ""
    for kind, amount in amounts.items():
        prices.change(db, kind, what, amount, currency, first_day)


def of_model(db: Session, ids: Sequence[str]) -> dict[str, Any]:
    """Kind → Price as it counts now, of a model and its base."""
    book = prices.book(db)
    found = {kind: book.at(kind, [one for one in ids if one], now()) for kind in prices.TOKENS}
    return {kind: price for kind, price in found.items() if price is not None}


def free_list(db: Session) -> list[tuple[FreeQuota, str]]:
    """All that have not ended, with the models' names."""
    rows = db.scalars(
        select(FreeQuota)
        .where(FreeQuota.last_day >= now().date())
        .order_by(FreeQuota.last_day, FreeQuota.id)
    ).all()
    names = names_of(db, [row.model_id for row in rows])
    return [(row, names.get(row.model_id, row.model_id)) for row in rows]


def free_of(db: Session, workspace_id: str) -> list[tuple[free.Free, str]]:
    """A workspace's own, with the models' names."""
    rows = free.of(db, workspace_id)
    names = names_of(db, [row.model_id for row in rows])
    return [(row, names.get(row.model_id, row.model_id)) for row in rows]


def refuse_unknown(db: Session, workspace_id: str, model: str) -> str:
    """The id of a model that has a free quota here. Raises NotFound."""
    for row, name in free_of(db, workspace_id):
        if model in (row.model_id, name):
            return row.model_id
    raise NotFound(N_("There is no free quota of this model."), field="model")
