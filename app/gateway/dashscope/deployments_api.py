"""`/dashscope/api/v1/deployments`."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.accounts.auth import Principal
from app.deployments import service
from app.errors import NotFound
from app.gateway.dashscope import deployments
from app.gateway.dashscope.replies import PREFIX, PageNo, PageSize, paged, reply
from app.gateway.dashscope.schemas import DeploymentCreate, Limits, Scale
from app.gateway.keyed import keyed
from app.queue import Db, transaction

router = APIRouter(prefix=f"{PREFIX}/deployments", tags=["dashscope"])
Reader = Annotated[Principal, keyed("viewer", "deployments:read")]
Writer = Annotated[Principal, keyed("member", "deployments:write")]
LIFE = 600.0  # seconds that a stream lasts at most
LOOK = 1.0
SETTLED = ("RUNNING", "STOPPED", "FAILED")


@router.post("")
def create(request: Request, body: DeploymentCreate, who: Writer, db: Db) -> dict[str, Any]:
    """Serve a model; `deployed_model` is its name in calls."""
    made = deployments.create(db, who, body)
    return reply(request, deployments.out(db, [made])[0])


@router.get("")
def index(
    request: Request, who: Reader, db: Db, page_no: PageNo = 1, page_size: PageSize = 10
) -> dict[str, Any]:
    """The deployments of the workspace."""
    found, total = deployments.page(db, who, offset=(page_no - 1) * page_size, limit=page_size)
    shown = deployments.out(db, found)
    return reply(request, paged("deployments", shown, total, page_no, page_size))


@router.get("/{deployed_model}")
def show(request: Request, deployed_model: str, who: Reader, db: Db) -> dict[str, Any]:
    """One deployment."""
    found = deployments.named(db, who, deployed_model)
    return reply(request, deployments.out(db, [found])[0])


@router.delete("/{deployed_model}")
def delete(request: Request, deployed_model: str, who: Writer, db: Db) -> dict[str, Any]:
    """Stop its engines and free its name and devices."""
    found = deployments.named(db, who, deployed_model)
    service.delete(db, who.workspace_id, found.id)
    return reply(request, {"status": "DELETING"})


@router.put("/{deployed_model}/scale")
def scale(
    request: Request, deployed_model: str, body: Scale, who: Writer, db: Db
) -> dict[str, Any]:
    """`capacity` is the number of replicas."""
    scaled = deployments.scale(db, who, deployed_model, body.capacity)
    return reply(request, deployments.out(db, [scaled])[0])


@router.put("/{deployed_model}/update")
def update(
    request: Request, deployed_model: str, body: Limits, who: Writer, db: Db
) -> dict[str, Any]:
    """Limits of a deployment, which API keys have here: refused, unless there is nothing to do."""
    if body.rpm_limit is not None or body.tpm_limit is not None:
        deployments.limit(db, who, deployed_model)
    found = deployments.named(db, who, deployed_model)
    return reply(request, deployments.out(db, [found])[0])


@router.get("/{deployed_model}/stream", response_class=StreamingResponse)
def follow(deployed_model: str, who: Reader, db: Db) -> StreamingResponse:
    """Each change of its status, until it runs or will not."""
    deployments.named(db, who, deployed_model)
    return StreamingResponse(
        changes(who, deployed_model),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def changes(who: Principal, name: str) -> AsyncIterator[bytes]:
    def look() -> dict[str, Any]:
        with transaction() as db:
            return deployments.out(db, [deployments.named(db, who, name)])[0]

    known: dict[str, Any] = {}
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        try:
            now = await run_in_threadpool(look)
        except NotFound:  # deleted
            return
        if now != known:
            known = now
            yield b"event:message\ndata:%s\n\n" % orjson.dumps(now)
        else:
            yield b": still here\n\n"
        if now["status"] in SETTLED:
            return
        await asyncio.sleep(LOOK)
