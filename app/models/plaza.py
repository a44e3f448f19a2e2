"""What the cards of the model list show beside the models themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster.tables import Device, Lease
from app.db import now
from app.models.families import FAMILIES, OTHER
from app.models.service import seen_from
from app.models.tables import Model
from app.quotas import free, prices
from app.quotas import service as quotas
from app.quotas.free import Free
from app.quotas.tables import Price


@dataclass(frozen=True)
class Terms:
    """What an hour of a device costs, and how many devices the workspace may still take."""

    low: Decimal | None  # None: no price is set
    high: Decimal | None
    currency: str
    held: int
    limit: int | None  # None: no limit

    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.held)


def terms(db: Session, workspace_id: str) -> Terms:
    names = set(db.scalars(select(Device.model).distinct())) or {""}
    found = [price for name in sorted(names) if (price := prices.of(db, name))]
    currency = found[0].currency if found else ""
    hours = [price.hour for price in found if price.currency == currency]
    held = select(func.count()).where(
        Lease.workspace_id == workspace_id, Lease.released_at.is_(None)
    )
    return Terms(
        low=min(hours, default=None),
        high=max(hours, default=None),
        currency=currency,
        held=db.scalar(held) or 0,
        limit=quotas.limit(db, workspace_id),
    )


@dataclass(frozen=True)
class Tariff:
    """What 1,000 tokens of a model cost, by kind, and what of it is free here."""

    prices: dict[str, Price]  # input, cached, output, trained: those that are set
    free: list[Free]

    @property
    def currencies(self) -> list[str]:
        return list(dict.fromkeys(price.currency for price in self.prices.values()))


def tariffs(db: Session, workspace_id: str, models: Sequence[Model]) -> dict[str, Tariff]:
    """By the model's id; a tuned model without its own has its base's."""
    book = prices.book(db)
    whats = {model.id: [one for one in (model.id, model.base_id) if one] for model in models}
    every = free.of(db, workspace_id, [one for ids in whats.values() for one in ids])
    found = {}
    for model_id, ids in whats.items():
        priced = {kind: book.at(kind, ids, now()) for kind in prices.TOKENS}
        found[model_id] = Tariff(
            {kind: price for kind, price in priced.items() if price},
            [one for one in every if one.model_id in ids],
        )
    return found


def families(db: Session, workspace_id: str) -> list[str]:
    """Those of the models here, the well-known first; `other` where there are some besides."""
    here = set(
        db.scalars(
            seen_from(workspace_id)
            .where(Model.deleted_at.is_(None))
            .with_only_columns(Model.family)
            .distinct()
        )
    )
    known = [name for name in dict.fromkeys(FAMILIES.values()) if name in here]
    return known + ([OTHER] if here - set(known) else [])
