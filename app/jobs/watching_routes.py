"""What stands on a job's page beside its state, each with an address of its own; and comparing."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask

from app.accounts.auth import Principal, requires
from app.errors import N_, Conflict
from app.jobs import boards, comparing, eventfiles, history, service, watching, webhook
from app.jobs.states import FINAL
from app.queue import Db, transaction
from app.web import address, redirect, render

router = APIRouter(prefix="/jobs", include_in_schema=False)
POINTS = 600  # of a curve on the page of several
EXACT = ("step", "t")
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]


async def body_of(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(body_of)]
Ids = Annotated[Sequence[str], Query(max_length=20)]  # one may hold several, between commas
Wanted = Annotated[str, Query(max_length=200)]


@router.post("/{job_id}/priority", name="jobs:priority")
def set_priority(
    request: Request,
    job_id: str,
    who: Writer,
    db: Db,
    priority: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    service.change_priority(db, who, job_id, priority)
    return redirect(request, "jobs:detail", job_id=job_id)


@router.get("/compare", name="jobs:compare")
def compare(request: Request, who: Reader, db: Db, ids: Ids = ()) -> Response:
    """Curves of several jobs in one chart, and a table of what differs."""
    jobs = comparing.chosen(db, who.workspace_id, ",".join(ids))
    others, _ = service.list_jobs(db, who.workspace_id, limit=100)
    return render(
        request,
        "jobs/compare.html",
        jobs=jobs,
        others=[job for job in others if job not in jobs and job.stage not in service.WHOLE],
        table=comparing.differences(db, jobs) if jobs else [],
        curves=[{"id": job.id, "name": job.name, "rows": curve(db, job.id)} for job in jobs],
        most=comparing.MOST,
    )


def curve(db: Session, job_id: str) -> list[dict[str, Any]]:
    """A curve with no more points than a chart has room for, and no digit that nobody sees."""
    rows, _ = history.metrics_after(db, job_id, 0, points=POINTS)
    return [
        {
            key: float(f"{one:.6g}") if key not in EXACT else one
            for key, one in row.items()
            if one is not None
        }
        for row in rows
    ]


@router.get("/{job_id}/verdict", name="jobs:verdict")
def verdict(request: Request, job_id: str, who: Reader, db: Db) -> Response:
    """What the curve says; asks again by itself while the job runs."""
    job = service.get(db, who.workspace_id, job_id)
    return render(
        request,
        "jobs/verdict.html",
        job=job,
        verdict=watching.judged(db, job),
        live=live(job.state),
    )


def live(state: str) -> bool:
    return state not in FINAL and state != "paused"


@router.get("/{job_id}/samples", name="jobs:samples")
def samples(request: Request, job_id: str, who: Reader, db: Db) -> Response:
    job = service.get(db, who.workspace_id, job_id)
    return render(request, "jobs/samples.html", job=job, samples=watching.samples(db, job.id))


@router.get("/{job_id}/log/search", name="jobs:log_search")
def search_log(request: Request, job_id: str, who: Reader, db: Db, q: Wanted = "") -> Response:
    """The lines of the whole log that contain `q`."""
    job = service.get(db, who.workspace_id, job_id)
    wanted = q.strip()
    found, count = watching.search(db, job, wanted, final=job.state in FINAL) if wanted else ([], 0)
    return render(request, "jobs/log_search.html", q=wanted, found=found, count=count)


@router.post("/{job_id}/finish", name="jobs:finish")
def finish(request: Request, job_id: str, who: Writer, db: Db) -> Response:
    service.finish(db, who.workspace_id, job_id)
    return redirect(request, "jobs:detail", job_id=job_id)


@router.post("/{job_id}/webhook-key", name="jobs:replace_webhook_key")
def replace_webhook_key(
    request: Request,
    job_id: str,
    who: Annotated[Principal, requires("admin", "jobs:write")],
    db: Db,
) -> Response:
    """The workspace's key, from the page of a job that shows it."""
    job = service.get(db, who.workspace_id, job_id)
    webhook.replace_key(db, job.workspace_id)
    return redirect(request, f"{address(request.app, 'jobs:detail', job_id=job.id)}?tab=settings")


# -- TensorBoard ---------------------------------------------------------------------------


@router.get("/{job_id}/tensorboard.zip", name="jobs:tensorboard_zip")
def download_board(job_id: str, who: Reader) -> Response:
    """The job's event files, to look at elsewhere."""
    made = tempfile.TemporaryDirectory(prefix="danlu-board-")
    try:
        with transaction() as db:
            job = service.get(db, who.workspace_id, job_id)
            path = eventfiles.archive(db, job, Path(made.name))
    except BaseException:
        made.cleanup()
        raise
    return FileResponse(
        path, filename=f"{job_id}-tensorboard.zip", background=BackgroundTask(made.cleanup)
    )


@router.post("/{job_id}/tensorboard", name="jobs:open_tensorboard")
def open_board(request: Request, job_id: str, who: Reader) -> Response:
    """Start it, and go there."""
    boards.open_board(who.workspace_id, job_id, board_of(request, job_id).rstrip("/"))
    return redirect(request, board_of(request, job_id))


@router.api_route(
    "/{job_id}/tensorboard/{path:path}", methods=["GET", "POST"], name="jobs:tensorboard"
)
def board(request: Request, job_id: str, path: str, who: Reader, body: Body) -> Response:
    """What stands behind is TensorBoard's own; nobody gets there but through here."""
    directory = boards.home() / job_id
    with transaction() as db:
        service.get(db, who.workspace_id, job_id)
    if directory.is_dir():
        boards.renew(who.workspace_id, job_id, directory)
    answer = boards.ask(
        job_id,
        request.method,
        board_of(request, job_id) + path,
        request.url.query,
        body,
        request.headers.get("content-type", ""),
    )
    if answer is None:
        if path == "" and boards.starting(directory):
            waiting: dict[str, Any] = {"job_id": job_id}
            page = render(request, "jobs/tensorboard.html", **waiting)
            page.headers["refresh"] = "1"
            return page
        raise Conflict(
            N_("This TensorBoard is closed. Open it again from the job's page."), code="closed"
        )
    if answer.is_redirect:
        return RedirectResponse(board_of(request, job_id), status_code=303)
    return Response(answer.content, answer.status_code, headers=boards.kept_headers(answer))


def board_of(request: Request, job_id: str) -> str:
    return str(request.app.url_path_for("jobs:tensorboard", job_id=job_id, path=""))
