"""`/api/v1/deployments`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.deployments import editing, fitting, revisions, service, view
from app.deployments.answers import (
    DeploymentOut,
    Deployments,
    Events,
    PlanOut,
    RevisionOut,
    Revisions,
)
from app.deployments.plans import plan
from app.deployments.schemas import (
    Asked,
    DeploymentChange,
    DeploymentCreate,
    Rollback,
    Scale,
    Schedule,
)
from app.deployments.tables import Deployment
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"])
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]


def out(request: Request, db: Session, found: list[Deployment]) -> list[DeploymentOut]:
    say, replicas = view.speaker(request), service.replicas(db, found)
    waits = view.first_waits(db, found, replicas)
    return [
        DeploymentOut.of(one, replicas[one.id], view.address(), say, waits.get(one.id))
        for one in found
    ]


@router.post("", status_code=201, name="api:deployments:create")
def create(request: Request, body: DeploymentCreate, who: Writer, db: Db) -> DeploymentOut:
    """Serve a model. It waits, with a reason, until its devices and the quota are free."""
    return out(request, db, [service.create(db, who, body)])[0]


@router.post("/plan", name="api:deployments:plan")
def think(request: Request, body: Asked, who: Writer, db: Db) -> PlanOut:
    """How a model would be served, whether it fits into the memory that is free now, and which
    setting would make it fit. Starts nothing.
    """
    found = plan(db, who.workspace_id, body.model, **body.model_dump(exclude={"model"}))
    return PlanOut.of(found, fitting.fit(db, who.workspace_id, found), view.speaker(request))


@router.get("", name="api:deployments:list")
def list_deployments(
    request: Request,
    who: Reader,
    db: Db,
    after: After = "",
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Deployments:
    """The workspace's deployments, newest first."""
    found, more = service.list_deployments(
        db, who.workspace_id, after=after, offset=offset, limit=limit
    )
    return Deployments(data=out(request, db, found), has_more=more)


@router.get("/{deployment_id}", name="api:deployments:get")
def get(request: Request, deployment_id: str, who: Reader, db: Db) -> DeploymentOut:
    """One deployment, by id or name, with its replicas."""
    return out(request, db, [service.get(db, who.workspace_id, deployment_id)])[0]


@router.patch("/{deployment_id}", name="api:deployments:change")
def change(
    request: Request, deployment_id: str, body: DeploymentChange, who: Writer, db: Db
) -> DeploymentOut:
    """Change its settings: what runs goes over to a new revision, and back if that does not start."""
    if body.priority is not None:
        editing.prioritise(db, who, deployment_id, body.priority)
    if body.replicas is not None:
        editing.scale(db, who.workspace_id, deployment_id, body.replicas)
    if changes := body.changes():
        editing.edit(db, who, deployment_id, changes)
    return out(request, db, [service.get(db, who.workspace_id, deployment_id)])[0]


@router.post("/{deployment_id}/scale", name="api:deployments:scale")
def scale(request: Request, deployment_id: str, body: Scale, who: Writer, db: Db) -> DeploymentOut:
    """More replicas, or fewer: those too many finish what they answer, then stop."""
    made = editing.scale(db, who.workspace_id, deployment_id, body.replicas)
    return out(request, db, [made])[0]


@router.get("/{deployment_id}/revisions", name="api:deployments:revisions")
def list_revisions(
    request: Request,
    deployment_id: str,
    who: Reader,
    db: Db,
    after: After = "",
    limit: Limit = 100,
) -> Revisions:
    """The settings it had, newest first: at most the last hundred."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    say = view.speaker(request)
    found, more = page(
        revisions.history(db, deployment.id), after, limit, lambda one: str(one.number)
    )
    data = [RevisionOut.of(one, deployment, say) for one in found]
    return Revisions(data=data, has_more=more)


@router.post("/{deployment_id}/rollback", name="api:deployments:rollback")
def rollback(
    request: Request, deployment_id: str, body: Rollback, who: Writer, db: Db
) -> DeploymentOut:
    """The settings of an earlier revision again; of the one still being replaced: call it off."""
    made = editing.rollback(db, who, deployment_id, body.revision)
    return out(request, db, [made])[0]


@router.put("/{deployment_id}/schedule", name="api:deployments:schedule")
def schedule(
    request: Request, deployment_id: str, body: Schedule, who: Writer, db: Db
) -> DeploymentOut:
    """Start and stop it by itself, at times in cron's notation."""
    wanted = (body.timezone, [window.model_dump() for window in body.windows])
    made = editing.schedule(db, who.workspace_id, deployment_id, wanted)
    return out(request, db, [made])[0]


@router.delete("/{deployment_id}/schedule", name="api:deployments:unschedule")
def unschedule(request: Request, deployment_id: str, who: Writer, db: Db) -> DeploymentOut:
    """No longer start and stop it by itself."""
    made = editing.schedule(db, who.workspace_id, deployment_id, None)
    return out(request, db, [made])[0]


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
    replica: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    revision: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    start: Annotated[int | None, Query(ge=0)] = None,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> PlainTextResponse:
    """What an engine wrote, from byte `offset` of one of its starts (by default the newest), by
    default of the present revision.
    `x-start` and `x-next-offset` say where to go on.
    """
    deployment = service.get(db, who.workspace_id, deployment_id)
    fence, after, data = view.log(db, deployment, (revision, replica), start, offset)
    headers = {"x-start": str(fence), "x-next-offset": str(after)}
    return PlainTextResponse(data.decode(errors="replace"), headers=headers)


@router.get("/{deployment_id}/events", name="api:deployments:events")
def events(request: Request, deployment_id: str, who: Reader, db: Db) -> Events:
    """What happened to it, newest first."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    return Events(data=view.events(db, deployment, view.speaker(request)), has_more=False)
