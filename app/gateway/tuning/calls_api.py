"""`/api/v1/tuned-calls`: what calls of tuned models do that are not deployed."""

from typing import Annotated

from fastapi import APIRouter

from app.accounts.auth import Principal, requires
from app.gateway.tuning import calls
from app.gateway.tuning.schemas import TunedCalls
from app.queue import Db

router = APIRouter(prefix="/api/v1/tuned-calls", tags=["deployments"])


@router.get("")
def show(who: Annotated[Principal, requires("viewer", "deployments:read")], db: Db) -> TunedCalls:
    """off: they are refused. load: onto engines that run. start: on one of their own if need be."""
    return TunedCalls.model_validate({"mode": calls.mode(db, who.workspace_id)})


@router.put("")
def change(
    body: TunedCalls, who: Annotated[Principal, requires("admin", "deployments:write")], db: Db
) -> TunedCalls:
    """For all calls in this workspace, from the next one on."""
    calls.change(db, who.workspace_id, body.mode)
    return body
