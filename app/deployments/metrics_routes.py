"""What one watches while a deployment runs: its curves and its engines' logs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.accounts.auth import Principal, requires
from app.deployments import logs, metrics, service
from app.jobs import watching
from app.queue import Db
from app.web import render

router = APIRouter(prefix="/deployments", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Range = Literal["15m", "1h", "24h", "7d"]
Which = Annotated[str, Query(max_length=64)]  # its id
Start = Annotated[str, Query(pattern=r"^\d{0,9}$")]  # empty: the newest
Wanted = Annotated[str, Query(max_length=200)]


def number(start: str) -> int | None:
    return int(start) if start else None


@router.get("/{deployment_id}/charts", name="deployments:charts")
def charts(
    request: Request,
    deployment_id: str,
    who: Reader,
    db: Db,
    shown: Annotated[Range, Query(alias="range")] = "1h",
) -> Response:
    """The curves, a fragment of the deployment's page; static/deployment.js fills it."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    return render(
        request,
        "deployments/charts.html",
        deployment=deployment,
        shown=shown,
        ranges=list(metrics.RANGES),
    )


@router.get("/{deployment_id}/log", name="deployments:log")
def log(
    request: Request,
    deployment_id: str,
    who: Reader,
    db: Db,
    replica: Which = "",
    start: Start = "",
) -> Response:
    """The end of an engine's log, a fragment of the deployment's page that follows it."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    replicas = logs.writers(db, deployment.id)
    piece, kept = None, []
    if replicas:
        found = logs.chosen(db, deployment, replica)
        piece = logs.end(db, found, logs.named(db, found, number(start)))
        kept = logs.starts(db, found.id)
    return render(
        request,
        "deployments/log.html",
        deployment=deployment,
        replicas=replicas,
        chosen=found.id if replicas else "",
        start=start,
        starts=kept,
        piece=piece,
    )


@router.get("/{deployment_id}/log/stream", name="deployments:log_stream")
def follow(
    deployment_id: str,
    who: Reader,
    db: Db,
    replica: Which = "",
    start: Start = "",
    after: str = "",
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """What an engine writes from now on; `after` is the place where the page ends."""
    found = logs.chosen(db, service.get(db, who.workspace_id, deployment_id), replica)
    fence = number(start)
    logs.named(db, found, fence)
    place = logs.Place.parse(last_event_id or after)
    return StreamingResponse(
        logs.follow(found.id, place, fence),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get("/{deployment_id}/log/search", name="deployments:log_search")
def search(
    request: Request,
    deployment_id: str,
    who: Reader,
    db: Db,
    q: Wanted = "",
    replica: Which = "",
    start: Start = "",
) -> Response:
    """The lines of one start's whole log that contain `q`."""
    found = logs.chosen(db, service.get(db, who.workspace_id, deployment_id), replica)
    fence = logs.named(db, found, number(start))
    wanted = q.strip()
    all_lines = logs.lines(found.id, fence, final=logs.final(found, fence)) if wanted else ()
    matches, count = watching.matching(all_lines, wanted)
    return render(request, "jobs/log_search.html", q=wanted, found=matches, count=count)


@router.get("/{deployment_id}/log.txt", name="deployments:log_download")
def download(
    deployment_id: str, who: Reader, db: Db, replica: Which = "", start: Start = ""
) -> StreamingResponse:
    """All that is kept of one start's log."""
    deployment = service.get(db, who.workspace_id, deployment_id)
    found = logs.chosen(db, deployment, replica)
    fence = logs.named(db, found, number(start))
    name = f"{deployment.name}-{found.index + 1}-{fence}.log"
    return StreamingResponse(
        logs.pieces(found.id, fence, final=logs.final(found, fence)),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
