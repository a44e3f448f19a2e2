"""`/api/v1/prices`: what an hour of a device costs. Estimates of jobs are shown in it."""

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import PLATFORM, Principal, requires
from app.queue import Db
from app.quotas import prices

router = APIRouter(prefix="/api/v1/prices", tags=["quotas"])


class PriceIn(BaseModel):
    """`device` is a model's name as `/api/v1/devices` says it; empty: all that have no price of
    their own. `hour` null takes the price away.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    device: str = Field("", max_length=200)
    hour: Decimal | None = Field(ge=0, lt=10**6, max_digits=14, decimal_places=6)
    currency: str = Field("CNY", min_length=1, max_length=8)


class PriceOut(BaseModel):
    """What an hour of a device costs."""

    device: str
    hour: float
    currency: str


class Prices(BaseModel):
    """Prices by device; the one with no name is for all others."""

    data: list[PriceOut]
    has_more: bool = False


def listed(db: Db) -> Prices:
    found = prices.all_of(db)
    return Prices(
        data=[
            PriceOut(device=one.device, hour=float(one.hour), currency=one.currency)
            for one in found
        ]
    )


@router.get("", name="api:prices:list")
def list_prices(_who: Annotated[Principal, requires("viewer", "account")], db: Db) -> Prices:
    """What an hour of each device costs."""
    return listed(db)


@router.put("", name="api:prices:put")
def put_price(
    body: PriceIn, _who: Annotated[Principal, requires(PLATFORM, "admin")], db: Db
) -> Prices:
    """Set a price, or take it away."""
    prices.put(db, body.device, body.hour, body.currency)
    return listed(db)
