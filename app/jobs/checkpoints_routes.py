"""The checkpoints of a job as a part of its page, and the button that publishes one."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from app.accounts import platform
from app.accounts.auth import Principal, requires
from app.jobs import checkpoints, retention, service
from app.jobs.checkpoints_api import out
from app.jobs.schemas import NAME
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/jobs", include_in_schema=False)


class KeepForm(BaseModel):
    keep: bool = False


class PublishForm(BaseModel):
    name: str = Field("", max_length=NAME)


@router.get("/{job_id}/kept", name="jobs:kept")
def index(
    request: Request,
    job_id: str,
    who: Annotated[Principal, requires("viewer", "jobs:read")],
    db: Db,
) -> Response:
    job = service.get(db, who.workspace_id, job_id)
    rows = [out(request, row) for row in checkpoints.of_job(db, job)]
    measured = [row.eval_loss for row in rows if row.eval_loss is not None]
    return render(
        request,
        "jobs/kept.html",
        job=job,
        rows=rows,
        best=min(measured, default=None),
        wanted=platform.read(db).retention,
    )


@router.post("/{job_id}/keep", name="jobs:keep")
def keep(
    request: Request,
    job_id: str,
    form: Annotated[Parsed[KeepForm], parsed(KeepForm)],
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
) -> Response:
    retention.keep(db, who, job_id, wanted=bool(form.data and form.data.keep))
    return index(request, job_id, who, db)


@router.post("/{job_id}/checkpoints/{step}/publish", name="jobs:publish")
def publish(
    request: Request,
    job_id: str,
    step: Annotated[int, Path(ge=0, lt=2**31)],
    form: Annotated[Parsed[PublishForm], parsed(PublishForm)],
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
) -> Response:
    checkpoints.publish(db, who, job_id, step, form.data.name if form.data else "")
    return redirect(request, "jobs:detail", job_id=job_id)
