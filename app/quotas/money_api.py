"""`/api/v1/balances`: what workspaces have paid in and have left."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.accounts.auth import PLATFORM, Principal, requires
from app.accounts.tables import Workspace
from app.paging import After, Limit
from app.queue import Db
from app.quotas import accounts, service
from app.quotas.money_tables import TopUp

router = APIRouter(prefix="/api/v1", tags=["quotas"])
Reader = Annotated[Principal, requires("viewer", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


class BalanceOut(BaseModel):
    """Money as decimal text, to the cent; `full` is what it was after the last top-up."""

    workspace: str
    currency: str
    amount: Decimal
    full: Decimal
    prepaid: bool = Field(description="Whether work pauses when it is used up.")


class Balances(BaseModel):
    """One for each currency."""

    data: list[BalanceOut]
    has_more: bool = False


class TopUpIn(BaseModel):
    """A negative amount takes money out again."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    amount: Decimal = Field(gt=-(10**12), lt=10**12, max_digits=18, decimal_places=6)
    currency: str = Field("CNY", min_length=1, max_length=8)
    note: str = Field("", max_length=500)


class PrepaidIn(BaseModel):
    """Whether the workspace stops when the balance is used up, or goes on owing."""

    model_config = ConfigDict(extra="forbid")

    currency: str = Field("CNY", min_length=1, max_length=8)
    prepaid: bool


class TopUpOut(BaseModel):
    """Money paid in or taken out."""

    id: str
    at: datetime
    amount: Decimal
    currency: str
    note: str
    user: str


class TopUps(BaseModel):
    """Newest first."""

    data: list[TopUpOut]
    has_more: bool


def shown(found: list[accounts.Balance]) -> Balances:
    return Balances(
        data=[
            BalanceOut(
                workspace=one.workspace_id,
                currency=one.currency,
                amount=one.amount,
                full=one.full,
                prepaid=one.prepaid,
            )
            for one in found
        ]
    )


def top_up_out(row: TopUp) -> TopUpOut:
    return TopUpOut(
        id=row.id,
        at=row.at,
        amount=row.amount,
        currency=row.currency,
        note=row.note,
        user=row.user_id,
    )


@router.get("/balance", name="api:balances:own")
def balance(who: Reader, db: Db) -> Balances:
    """Of the workspace in view."""
    return shown(accounts.of(db, who.workspace_id))


@router.get("/balances", name="api:balances:list")
def balances(_who: Admin, db: Db) -> Balances:
    """Of every workspace that has one."""
    ids = db.scalars(select(Workspace.id).order_by(Workspace.name))
    return shown([one for workspace_id in ids for one in accounts.of(db, workspace_id)])


@router.put("/balances/{workspace}", name="api:balances:put")
def put_balance(workspace: str, body: PrepaidIn, who: Admin, db: Db) -> Balances:
    """The first top-up makes a workspace prepaid."""
    found = service.workspace(db, who, workspace)
    accounts.set_prepaid(db, found.id, body.currency, body.prepaid)
    return shown(accounts.of(db, found.id))


@router.get("/balances/{workspace}/top-ups", name="api:balances:top_ups")
def list_top_ups(
    workspace: str, who: Reader, db: Db, after: After = "", limit: Limit = 50
) -> TopUps:
    """Members see their own workspace's, a platform admin everybody's."""
    found = service.workspace(db, who, workspace)
    rows, more = accounts.top_ups(db, found.id, after, limit)
    return TopUps(data=[top_up_out(row) for row in rows], has_more=more)


@router.post("/balances/{workspace}/top-ups", name="api:balances:top_up", status_code=201)
def top_up(workspace: str, body: TopUpIn, who: Admin, db: Db) -> TopUpOut:
    """What it had paused goes on by itself."""
    found = service.workspace(db, who, workspace)
    return top_up_out(accounts.top_up(db, who, found.id, body.amount, body.currency, body.note))
