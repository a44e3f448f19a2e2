"""`/api/v1/prices/tokens` and `/api/v1/free-quotas`."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import PLATFORM, Principal, requires
from app.dashboard import tariffs
from app.queue import Db
from app.quotas import free, prices, service

router = APIRouter(prefix="/api/v1", tags=["quotas"])
Reader = Annotated[Principal, requires("viewer", "account")]
Leader = Annotated[Principal, requires("admin", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
Amount = Annotated[Decimal, Field(ge=0, lt=10**6, max_digits=14, decimal_places=8)]


class TokenPriceIn(BaseModel):
    """Of 1,000 tokens. What is left out stays; null takes a price away. Without a model: of all
    that have no price of their own; a tuned model without one has its base's.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    model: str = Field("", max_length=200)
    input: Amount | None = None
    cached: Amount | None = Field(None, description="Of the input; left out: as all input.")
    output: Amount | None = None
    trained: Amount | None = None
    currency: str = Field("CNY", min_length=1, max_length=8)
    first_day: date | None = Field(None, description="UTC; left out: from now on.")


class TokenPriceOut(BaseModel):
    """A price of 1,000 tokens as decimal text, and since or from when."""

    kind: Literal["input", "cached", "output", "trained"]
    model: str
    model_id: str
    amount: Decimal | None
    currency: str
    since: datetime


class TokenPrices(BaseModel):
    """What counts now, and what is planned."""

    data: list[TokenPriceOut]
    has_more: bool = False


class FreeIn(BaseModel):
    """So many tokens of a model, or minutes of a device for it, up to and with a day (UTC)."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    model: str = Field(min_length=1, max_length=200)
    workspace: str = Field("", max_length=100, description="Left out: for each workspace.")
    kind: Literal["tokens", "minutes"] = "tokens"
    amount: int = Field(gt=0, le=10**15)
    last_day: date


class FreeOut(BaseModel):
    """A free quota, and what is used of it here."""

    id: str
    model: str
    model_id: str
    kind: Literal["tokens", "minutes"]
    amount: int
    used: int
    left: int
    last_day: date
    stops: bool = Field(description="Calls stop when it is used up.")


class Frees(BaseModel):
    """What ends first comes first."""

    data: list[FreeOut]
    has_more: bool = False


class StopIn(BaseModel):
    """Stop when the free quota of a model is used up, rather than pay."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    model: str = Field(min_length=1, max_length=200)
    stop: bool


def all_prices(db: Db) -> TokenPrices:
    return TokenPrices(
        data=[
            TokenPriceOut(
                kind=one.kind,
                model=one.model,
                model_id=one.model_id,
                amount=one.amount,
                currency=one.currency,
                since=one.since,
            )
            for one in tariffs.listed(db)
        ]
    )


def own(db: Db, workspace_id: str) -> Frees:
    return Frees(
        data=[
            FreeOut(
                id=one.id,
                model=name,
                model_id=one.model_id,
                kind="minutes" if one.kind == free.DEVICE else "tokens",
                amount=one.amount,
                used=one.used,
                left=one.left,
                last_day=one.last_day,
                stops=one.stops,
            )
            for one, name in tariffs.free_of(db, workspace_id)
        ]
    )


@router.get("/prices/tokens", name="api:prices:tokens")
def token_prices(_who: Reader, db: Db) -> TokenPrices:
    """What 1,000 tokens cost: input, cached input, output and trained."""
    return all_prices(db)


@router.put("/prices/tokens", name="api:prices:put_tokens")
def put_token_prices(body: TokenPriceIn, who: Admin, db: Db) -> TokenPrices:
    """From a day on; what was used before keeps the price it had."""
    names = [name for name in prices.TOKENS if name in body.model_fields_set]
    amounts = {name: getattr(body, name) for name in names}
    tariffs.change(db, who, body.model, amounts, body.currency, body.first_day)
    return all_prices(db)


@router.get("/free-quotas", name="api:free:list")
def list_free(who: Reader, db: Db) -> Frees:
    """Of the workspace in view, that count today."""
    return own(db, who.workspace_id)


@router.post("/free-quotas", name="api:free:create", status_code=201)
def create_free(body: FreeIn, who: Admin, db: Db) -> dict[str, str]:
    """Used first; what comes after it costs money."""
    space = service.workspace(db, who, body.workspace).id if body.workspace else None
    kind = free.DEVICE if body.kind == "minutes" else free.TOKENS
    model = tariffs.model_id(db, who, body.model)
    return {"id": free.give(db, model, space, kind, body.amount, body.last_day).id}


@router.put("/free-quotas/stop", name="api:free:stop")
def stop_free(body: StopIn, who: Leader, db: Db) -> Frees:
    """Whether calls stop when a free quota is used up."""
    model = tariffs.refuse_unknown(db, who.workspace_id, body.model)
    free.stop(db, who.workspace_id, model, body.stop)
    return own(db, who.workspace_id)


@router.delete("/free-quotas/{free_id}", name="api:free:delete", status_code=204)
def delete_free(free_id: str, _who: Admin, db: Db) -> None:
    """What was used of it stays free."""
    free.take_back(db, free_id)
