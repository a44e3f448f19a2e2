"""`/api/v1/usage`: what was used, what it cost, and what is left of the limits."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import Principal, requires
from app.dashboard import standing, statements
from app.dashboard.statements import By, Line, Statement
from app.queue import Db
from app.quotas import service
from app.web import translate

router = APIRouter(prefix="/api/v1/usage", tags=["quotas"])
Reader = Annotated[Principal, requires("viewer", "account")]
Month = Annotated[str, Query(max_length=7, description="Such as 2026-11, UTC; left out: this one.")]
Where = Annotated[
    str, Query(max_length=100, description="Another workspace's, for platform admins.")
]


class LineOut(BaseModel):
    """What one of them used. Costs are decimal text by currency, to six places."""

    kind: str
    id: str
    name: str
    requests: int
    device_hours: Decimal
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    trained_tokens: int
    cost: dict[str, Decimal]


class StatementOut(BaseModel):
    """A month of a workspace. `total` is rounded once, to the cent, half to even."""

    workspace: str
    month: str
    by: By
    total: dict[str, Decimal]
    data: list[LineOut]
    has_more: bool = False


class UseOut(BaseModel):
    """A limit, and what is used of it."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    device: str
    used: float
    reserved: float = Field(description="For jobs that are not over.")
    limit: float | None
    source: str
    until: datetime | None = Field(description="When the limit ends, if it does.")
    renews: datetime | None = Field(description="When the count begins anew.")


class Uses(BaseModel):
    """Every limit."""

    data: list[UseOut]
    has_more: bool = False


def found(db: Db, who: Principal, workspace: str, month: str, by: By) -> Statement:
    """Members see what they used themselves, admins all of it."""
    space = service.workspace(db, who, workspace or who.workspace_id)
    mine = None if who.is_platform_admin or who.may("admin") else who.user_id
    return statements.of(db, space, month, by, mine)


def line(one: Line, currencies: list[str]) -> LineOut:
    return LineOut(
        kind=one.kind,
        id=one.key,
        name=one.name,
        requests=one.requests,
        device_hours=one.device_hours,
        prompt_tokens=one.prompt_tokens,
        cached_tokens=one.cached_tokens,
        completion_tokens=one.completion_tokens,
        trained_tokens=one.trained_tokens,
        cost={currency: one.cost(currency) for currency in currencies},
    )


@router.get("", name="api:usage:statement")
def usage(
    who: Reader, db: Db, month: Month = "", by: By = "item", workspace: Where = ""
) -> StatementOut:
    """A month by job and deployment, API key, member, model or day."""
    one = found(db, who, workspace, month, by)
    return StatementOut(
        workspace=one.workspace.id,
        month=one.month,
        by=one.by,
        total={currency: one.sum(currency) for currency in one.currencies},
        data=[line(each, one.currencies) for each in one.lines],
    )


@router.get("/statement.csv", name="api:usage:csv", response_class=Response)
def statement_csv(
    request: Request, who: Reader, db: Db, month: Month = "", by: By = "item", workspace: Where = ""
) -> Response:
    """The same as a file, with headers in the language of Accept-Language."""
    one = found(db, who, workspace, month, by)
    name = f"danlu-{one.workspace.slug}-{one.month}.csv"
    return Response(
        statements.as_csv(one, lambda text: translate(request, text)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/limits", name="api:usage:limits")
def limits(who: Reader, db: Db, workspace: Where = "", own: bool = False) -> Uses:
    """What is used of the workspace's limits, or with `own` of your own in it."""
    space = service.workspace(db, who, workspace or who.workspace_id)
    rows = standing.of(db, space.id, who.user_id if own else None)
    return Uses(data=[UseOut.model_validate(one) for one in rows])
