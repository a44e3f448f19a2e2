"""`/api/v1/quotas`: what a workspace and its members may have."""

from datetime import datetime
from typing import Annotated, Any, Literal

import fastapi
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, model_validator

from app.accounts.auth import PLATFORM, Principal, requires
from app.errors import N_
from app.paging import After, Limit
from app.queue import Db
from app.quotas import limits, service
from app.quotas.kinds import KINDS

router = APIRouter(prefix="/api/v1/quotas", tags=["quotas"])
Reader = Annotated[Principal, requires("viewer", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
Inherit = Literal["inherit"]
Query = Annotated[str, fastapi.Query(max_length=200, description="A part of the name.")]


def most(name: str) -> Any:
    return Field(ge=0, le=KINDS[name].most)


Count = Annotated[StrictInt, Field(ge=0, le=service.MOST_DEVICES)]


class Amounts(BaseModel):
    """New limits; what is left out stays. null is no limit, “inherit” takes one's own away, so
    that the platform's default counts. With `until` they end by themselves then.
    """

    model_config = ConfigDict(extra="forbid")

    devices: Count | Inherit | None = Field(None, description="Devices held at once.")
    devices_by_model: dict[str, Count | Inherit | None] = Field(
        default_factory=dict,
        max_length=100,
        description="The same of one type, by the device's model.",
    )
    running_jobs: Annotated[StrictInt, most("running_jobs")] | Inherit | None = None
    queued_jobs: Annotated[StrictInt, most("queued_jobs")] | Inherit | None = None
    deployments: Annotated[StrictInt, most("deployments")] | Inherit | None = None
    device_hours_day: (
        Annotated[StrictInt | StrictFloat, most("device_hours_day")] | Inherit | None
    ) = None
    device_hours_month: (
        Annotated[StrictInt | StrictFloat, most("device_hours_month")] | Inherit | None
    ) = None
    storage_bytes: Annotated[StrictInt, most("storage_bytes")] | Inherit | None = None
    tokens_minute: Annotated[StrictInt, most("tokens_minute")] | Inherit | None = None
    tokens_month: Annotated[StrictInt, most("tokens_month")] | Inherit | None = None
    until: datetime | None = Field(None, description="When they end; left out: never.")

    @model_validator(mode="after")
    def something(self) -> "Amounts":
        if not self.given():
            raise ValueError(N_("Name a limit to set."))
        if self.until is not None and self.until.tzinfo is None:
            raise ValueError(N_("The time needs a time zone, such as +08:00 or Z."))
        return self

    def given(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in self.model_fields_set
            if name not in ("until", "workspaces")
        }


class Bulk(Amounts):
    """The same limits for several workspaces at once: all, or none where one is not known."""

    workspaces: list[str] = Field(min_length=1, max_length=1000)


class LimitOut(BaseModel):
    """A limit, where it comes from, and when it ends."""

    amount: int | float | None
    source: Literal["platform", "workspace", "member"]
    until: datetime | None = None


class QuotaOut(BaseModel):
    """What a workspace, or a member in it, may have; null is no limit."""

    workspace: str
    name: str
    user: str | None = None
    devices: int | None
    devices_by_model: dict[str, int | None]
    running_jobs: int | None
    queued_jobs: int | None
    deployments: int | None
    device_hours_day: float | None
    device_hours_month: float | None
    storage_bytes: int | None
    tokens_minute: int | None
    tokens_month: int | None
    limits: dict[str, LimitOut] = Field(description="Those that are set, and where they come from.")


class QuotaList(BaseModel):
    """Several workspaces' quotas."""

    data: list[QuotaOut]
    has_more: bool = False


def shown(
    found: dict[limits.Name, limits.Limit], workspace: str, name: str, user: str | None = None
) -> QuotaOut:
    plain: dict[str, Any] = dict.fromkeys(KINDS)
    by_model: dict[str, Any] = {}
    sources = {}
    for (kind, device), limit in found.items():
        amount = None if limit.amount is None else KINDS[kind].shown(limit.amount)
        if device:
            by_model[device] = amount
        else:
            plain[kind] = amount
        label = f"{kind}:{device}" if device else kind
        sources[label] = LimitOut(amount=amount, source=limit.source, until=limit.until)
    return QuotaOut(
        workspace=workspace,
        name=name,
        user=user,
        devices_by_model=by_model,
        limits=sources,
        **plain,
    )


def quota_of(db: Db, workspace: Any) -> QuotaOut:
    return shown(limits.effective(db, workspace.id), workspace.id, workspace.name)


@router.get("", name="api:quotas:list")
def list_quotas(
    _who: Admin, db: Db, q: Query = "", after: After = "", limit: Limit = 50
) -> QuotaList:
    """Every workspace's, by name."""
    found, more = service.workspaces(db, q, after, limit)
    return QuotaList(data=[quota_of(db, workspace) for workspace in found], has_more=more)


@router.get("/default", name="api:quotas:default")
def get_default(_who: Reader, db: Db) -> QuotaOut:
    """What a workspace has that nobody has set a limit for."""
    return shown(limits.effective(db, None), "default", "")


@router.put("/default", name="api:quotas:put_default")
def put_default(body: Amounts, _who: Admin, db: Db) -> QuotaOut:
    """Counts at once for every workspace that has no limit of its own."""
    limits.change(db, None, None, body.given(), body.until)
    return shown(limits.effective(db, None), "default", "")


@router.put("", name="api:quotas:put_many")
def put_many(body: Bulk, who: Admin, db: Db) -> QuotaList:
    """Set the same limits of many workspaces: of all of them, or of none."""
    found = [service.workspace(db, who, one) for one in body.workspaces]
    for workspace in found:
        limits.change(db, workspace.id, None, body.given(), body.until)
    return QuotaList(data=[quota_of(db, workspace) for workspace in found])


@router.get("/{workspace}", name="api:quotas:get")
def get_quota(workspace: str, who: Reader, db: Db) -> QuotaOut:
    """A member sees their own workspace's quota, a platform admin everybody's."""
    return quota_of(db, service.workspace(db, who, workspace))


@router.put("/{workspace}", name="api:quotas:put")
def put_quota(workspace: str, body: Amounts, who: Admin, db: Db) -> QuotaOut:
    """What is held already stays held; the limits count for what asks next."""
    found = service.workspace(db, who, workspace)
    limits.change(db, found.id, None, body.given(), body.until)
    return quota_of(db, found)


@router.get("/{workspace}/members/{user_id}", name="api:quotas:member")
def get_member(workspace: str, user_id: str, who: Reader, db: Db) -> QuotaOut:
    """A member's own limits, which hold beside the workspace's. Members see their own."""
    found = service.member(db, who, workspace, user_id, reads=True)
    own = limits.of_member(db, found.id, user_id)
    return shown(own, found.id, found.name, user_id)


@router.put("/{workspace}/members/{user_id}", name="api:quotas:put_member")
def put_member(workspace: str, user_id: str, body: Amounts, who: Reader, db: Db) -> QuotaOut:
    """Set by the workspace's admins. “inherit” and null both leave the workspace's limit alone."""
    found = service.member(db, who, workspace, user_id)
    limits.change(db, found.id, user_id, body.given(), body.until)
    own = limits.of_member(db, found.id, user_id)
    return shown(own, found.id, found.name, user_id)
