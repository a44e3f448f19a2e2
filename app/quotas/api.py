"""`/api/v1/quotas`: how many devices a workspace may hold at once."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from app.accounts.auth import PLATFORM, Principal, requires
from app.queue import Db
from app.quotas import service

router = APIRouter(prefix="/api/v1/quotas", tags=["quotas"])


class QuotaIn(BaseModel):
    """A new limit."""

    model_config = ConfigDict(extra="forbid")

    devices: StrictInt | None = Field(
        ge=0,
        le=service.MOST_DEVICES,
        description="Devices held at once; null is no limit.",
    )


class QuotaOut(BaseModel):
    """How many devices a workspace may hold at once; null is no limit."""

    workspace: str
    name: str
    devices: int | None


@router.get("/{workspace}", name="api:quotas:get")
def get_quota(
    workspace: str, who: Annotated[Principal, requires("viewer", "account")], db: Db
) -> QuotaOut:
    """A member sees their own workspace's quota, a platform admin everybody's."""
    found = service.workspace(db, who, workspace)
    return QuotaOut(workspace=found.id, name=found.name, devices=service.limit(db, found.id))


@router.put("/{workspace}", name="api:quotas:put")
def put_quota(
    workspace: str,
    body: QuotaIn,
    who: Annotated[Principal, requires(PLATFORM, "admin")],
    db: Db,
) -> QuotaOut:
    """What is held already stays held; the limit counts for what asks next."""
    found = service.workspace(db, who, workspace)
    service.put(db, found.id, body.devices)
    return QuotaOut(workspace=found.id, name=found.name, devices=body.devices)
