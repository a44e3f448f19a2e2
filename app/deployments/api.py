"""`/api/v1/deployments`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.deployments import service, view
from app.deployments.schemas import DeploymentCreate, DeploymentOut, Deployments, Events
from app.deployments.tables import Deployment
from app.queue import Db

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"])
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]


def out(request: Request, db: Session, found: list[Deployment]) -> list[DeploymentOut]:
    say, replicas = view.speaker(request), service.replicas(db, found)
    return [DeploymentOut.of(one, replicas[one.id], view.address(), say) for one in found]


@router.post("", status_code=201, name="api:deployments:create")
def create(request: Request, body: DeploymentCreate, who: Writer, db: Db) -> DeploymentOut:
    """Serve a model. It waits, with a reason, until its devices and the quota are free."""
    return out(request, db, [service.create(db, who, body)])[0]


@router.get("", name="api:deployments:list")
def list_deployments(
    request: Request,
    who: Reader,
    db: Db,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Deployments:
    """The workspace's deployments, newest first."""
    found, more = service.list_deployments(db, who.workspace_id, offset=offset, limit=limit)
    return Deployments(data=out(request, db, found), has_more=more)


@router.get("/{deployment_id}", name="api:deployments:get")
def get(request: Request, deployment_id: str, who: Reader, db: Db) -> DeploymentOut:
    return out(request, db, [service.get(db, who.workspace_id, deployment_id)])[0]


@router.delete("/{deployment_id}", status_code=204, name="api:deployments:delete")
def delete(deployment_id: str, who: Writer, db: Db) -> Response:
    """Stop its engines and free its name and devices."""
    service.delete(db, who.workspace_id, deployment_id)
    return Response(status_code=204)


@router.post("/{deployment_id}/stop", name="api:deployments:stop")
def stop(request: Request, deployment_id: str, who: Writer, db: Db) -> DeploymentOut:
    """Stop its engines; the settings stay."""
    return out(request, db, [service.stop(db, who.workspace_id, deployment_id)])[0]


@router.post("/{deployment_id}/start", name="api:deployments:start")
def start(request: Request, deployment_id: str, who: Writer, db: Db) -> DeploymentOut:
    """Run again what was stopped, or try again at once what failed."""
    return out(request, db, [service.start(db, who.workspace_id, deployment_id)])[0]


@router.get("/{deployment_id}/log", response_class=PlainTextResponse, name="api:deployments:log")
def log(
    deployment_id: str,
    who: Reader,
    db: Db,
    replica: Annotated[int, Query(ge=0)] = 0,
    start: Annotated[int | None, Query(ge=0)] = None,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> PlainTextResponse:
    """What an engine wrote, from byte `offset` of one of its starts (by default the newest).
    `x-start` and `x-next-offset` say where to go on.
    """
    deployment = service.get(db, who.workspace_id, deployment_id)
    fence, after, data = view.log(db, deployment, replica, start, offset)
    headers = {"x-start": str(fence), "x-next-offset": str(after)}
    return PlainTextResponse(data.decode(errors="replace"), headers=headers)


@router.get("/{deployment_id}/events", name="api:deployments:events")
def events(request: Request, deployment_id: str, who: Reader, db: Db) -> Events:
    """What happened to it, newest first."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    return Events(data=view.events(db, deployment, view.speaker(request)), has_more=False)
