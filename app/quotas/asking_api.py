"""`/api/v1/quota-requests`: asking for more, and what came of it."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.accounts.auth import Principal, requires
from app.paging import After, Limit
from app.queue import Db
from app.quotas import asking
from app.quotas.kinds import ASKED
from app.quotas.money_tables import QuotaRequest

router = APIRouter(prefix="/api/v1/quota-requests", tags=["quotas"])
Reader = Annotated[Principal, requires("viewer", "account")]
Member = Annotated[Principal, requires("member", "account")]
Deciding = Annotated[Principal, requires("admin", "account")]
Name = Literal[
    "devices",
    "running_jobs",
    "queued_jobs",
    "deployments",
    "device_hours_day",
    "device_hours_month",
    "storage_bytes",
    "tokens_minute",
    "tokens_month",
    "balance",
]


class Ask(BaseModel):
    """Which limit, how much, until when, and why."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    limit: Name
    amount: float = Field(ge=0, description="As the quota has it: hours, bytes, tokens, a number.")
    device: str = Field(
        "",
        max_length=200,
        description="A device's model, of `devices`; of `balance` the currency, else the account's.",
    )
    until: AwareDatetime | None = None
    why: str = Field(min_length=1, max_length=2000)
    own: bool = Field(False, description="Your own limit in the workspace, not the workspace's.")


class Approval(BaseModel):
    """What is left out is as it was asked for."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    amount: float | None = Field(None, ge=0)
    until: AwareDatetime | None = None
    answer: str = Field("", max_length=2000)


class Refusal(BaseModel):
    """Why not."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    answer: str = Field(min_length=1, max_length=2000)


class RequestOut(BaseModel):
    """What was asked for, and what came of it."""

    id: str
    workspace: str
    user: str
    own: bool
    limit: str
    device: str
    amount: float
    until: datetime | None
    why: str
    state: str
    granted: float | None
    granted_until: datetime | None
    answer: str
    decided_by: str | None
    decided_at: datetime | None
    created_at: datetime


class Requests(BaseModel):
    """Newest first."""

    data: list[RequestOut]
    has_more: bool


def shown(row: QuotaRequest) -> RequestOut:
    kind = ASKED[row.name]
    return RequestOut(
        id=row.id,
        workspace=row.workspace_id,
        user=row.user_id,
        own=row.own,
        limit=row.name,
        device=row.device,
        amount=kind.shown(row.amount),
        until=row.until,
        why=row.why,
        state=row.state,
        granted=None if row.granted is None else kind.shown(row.granted),
        granted_until=row.granted_until,
        answer=row.answer,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        created_at=row.created_at,
    )


@router.get("", name="api:quota_requests:list")
def list_requests(
    who: Reader, db: Db, state: str = "", after: After = "", limit: Limit = 50
) -> Requests:
    """Your own; an admin's workspace's; a platform admin sees all."""
    found, more = asking.listed(db, who, state=state, after=after, limit=limit)
    return Requests(data=[shown(row) for row, *_ in found], has_more=more)


@router.post("", name="api:quota_requests:create", status_code=201)
def create(body: Ask, who: Member, db: Db) -> RequestOut:
    """Ask for more."""
    return shown(
        asking.ask(
            db,
            who,
            name=body.limit,
            amount=body.amount,
            why=body.why,
            until=body.until,
            device=body.device,
            own=body.own,
        )
    )


@router.post("/{quota_request_id}/approve", name="api:quota_requests:approve")
def approve(quota_request_id: str, body: Approval, who: Deciding, db: Db) -> RequestOut:
    """Set the limit, or top up the balance. A workspace's by a platform admin, a member's own by the workspace's admins."""
    row = asking.approve(db, who, quota_request_id, body.amount, body.until, body.answer)
    return shown(row)


@router.post("/{quota_request_id}/refuse", name="api:quota_requests:refuse")
def refuse(quota_request_id: str, body: Refusal, who: Deciding, db: Db) -> RequestOut:
    """With a reason, which who asked can read."""
    return shown(asking.refuse(db, who, quota_request_id, body.answer))


@router.post("/{quota_request_id}/withdraw", name="api:quota_requests:withdraw")
def withdraw(quota_request_id: str, who: Member, db: Db) -> RequestOut:
    """By who asked."""
    return shown(asking.withdraw(db, who, quota_request_id))
