"""`/api/v1/jobs/{id}/checkpoints`: what stands on the node, and publishing it as a model."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import Principal, requires
from app.jobs import checkpoints, retention, service
from app.jobs.schemas import NAME
from app.jobs.tables import JobCheckpoint
from app.queue import Db
from app.web import translate

router = APIRouter(tags=["jobs"])
BASE = "/api/v1/jobs/{job_id}/checkpoints"


class CheckpointOut(BaseModel):
    """`loss` is that of its step, `eval_loss` the last validation loss before it, `bytes` the size
    of its model. `state` is kept, publishing, published or failed; `model` is what it became.
    """

    step: int
    loss: float | None
    eval_loss: float | None
    bytes: int
    node: str
    state: str
    model: str | None
    error: dict[str, Any] | None
    created_at: datetime


class Checkpoints(BaseModel):
    """The checkpoints of a job, the newest first."""

    data: list[CheckpointOut]
    has_more: bool = False


class Publish(BaseModel):
    """The name of the model that a checkpoint becomes."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field("", max_length=NAME, description="Of the model; empty: made from the job's.")


class Keep(BaseModel):
    """Whether a job is kept whole."""

    model_config = ConfigDict(extra="forbid")

    keep: bool = True


def out(request: Request, row: JobCheckpoint) -> CheckpointOut:
    error = row.error
    if error:
        message = translate(request, error["message"], **error.get("params") or {})
        error = {"code": error["code"], "message": message}
    return CheckpointOut(
        step=row.step,
        loss=row.loss,
        eval_loss=row.eval_loss,
        bytes=row.size,
        node=row.node_id,
        state=row.state,
        model=row.model_id,
        error=error,
        created_at=row.created_at,
    )


@router.get(BASE, name="api:jobs:checkpoints")
def index(
    request: Request,
    job_id: str,
    who: Annotated[Principal, requires("viewer", "jobs:read")],
    db: Db,
) -> Checkpoints:
    """The newest first. A run keeps its last few; some days after its end, as the platform's settings say, the
    unpublished ones go, unless the job is to be kept.
    """
    job = service.get(db, who.workspace_id, job_id)
    return Checkpoints(data=[out(request, row) for row in checkpoints.of_job(db, job)])


@router.put("/api/v1/jobs/{job_id}/keep", name="api:jobs:keep")
def keep(
    job_id: str, body: Keep, who: Annotated[Principal, requires("member", "jobs:write")], db: Db
) -> Keep:
    """Whether nothing of the job, its checkpoints, files of its runs and its log, is ever cleared away
    by itself.
    """
    return Keep(keep=retention.keep(db, who, job_id, wanted=body.keep).keep)


@router.post(f"{BASE}/{{step}}/publish", status_code=202, name="api:jobs:publish")
def publish(
    request: Request,
    job_id: str,
    step: Annotated[int, Path(ge=0, lt=2**31)],
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
    body: Publish | None = None,
) -> CheckpointOut:
    """Make a checkpoint a model of the registry, to deploy and to chat with. Its node does so in
    the background: the answer's `state` is publishing, and `model` follows.
    """
    return out(request, checkpoints.publish(db, who, job_id, step, body.name if body else ""))
