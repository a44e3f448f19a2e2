"""`/api/v1/jobs`, and the merge of a model."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, requires
from app.jobs import estimates, history, leaks, methods, service, starts, stream, waiting
from app.jobs.schemas import (
    JobCreate,
    JobOut,
    Jobs,
    MergeCreate,
    Metrics,
    PreviewOut,
    PriorityChange,
    TuningMethod,
    TuningStage,
)
from app.jobs.states import FINAL, State
from app.jobs.tables import Job
from app.paging import After
from app.queue import Db, transaction

router = APIRouter(tags=["jobs"])
BASE = "/api/v1/jobs"
LOOK = 2.0  # seconds that a preview looks for leaks before it answers
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]
Offset = Annotated[int, Query(ge=0, le=2**53)]


def out(request: Request, db: Session, jobs: list[Job]) -> list[JobOut]:
    reasons, say = waiting.reasons(db, jobs), stream.speaker(request)
    waits = waiting.waits(db, jobs)
    return [
        JobOut.of(job, reasons[job.id], stream.error_of(job, say), waits.get(job.id))
        for job in jobs
    ]


@router.post(BASE, status_code=201, name="api:jobs:create")
def create_job(request: Request, body: JobCreate, who: Writer, db: Db) -> JobOut:
    """Start a tuning run. It waits, with a reason, until its device and the quota are free."""
    return out(request, db, [service.create(db, who, body)])[0]


@router.post(f"{BASE}/preview", name="api:jobs:preview")
def preview(body: JobCreate, who: Writer) -> PreviewOut:
    """What a job would train on, before anything runs. `leaks` are validation rows that stand in
    the training data too; while `complete` is false ask again, and the look goes on.
    """
    with transaction() as db:
        chosen = service.choose_data(db, who.workspace_id, body)
        model = starts.find(db, who.workspace_id, body.model).model
        found = estimates.preview(db, who.workspace_id, model.id, chosen, body.hyperparameters)
    look = leaks.look(chosen, body.hyperparameters.seed, LOOK)
    if look.error:
        raise look.error
    return PreviewOut.of(found, look)


@router.get(BASE, name="api:jobs:list")
def list_jobs(
    request: Request,
    who: Reader,
    db: Db,
    state: State | None = None,
    after: After = "",
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Jobs:
    """The workspace's jobs, newest first."""
    found, more = service.list_jobs(
        db, who.workspace_id, state=state, after=after, offset=offset, limit=limit
    )
    return Jobs(data=out(request, db, found), has_more=more)


@router.get(f"{BASE}/schema", name="api:jobs:schema")
def schema(
    who: Reader,
    db: Db,
    stage: TuningStage = "sft",
    method: TuningMethod = "lora",
    model: Annotated[str, Query(max_length=200)] = "",
) -> dict[str, Any]:
    """JSON Schema of `hyperparameters`: the fields that mean something to a stage and a method,
    with range, meaning, and the default that they have there, and for `model` if one is named.
    """
    context = starts.find(db, who.workspace_id, model).model.context_length if model else 0
    return methods.schema(stage, method, context)


@router.get(f"{BASE}/{{job_id}}", name="api:jobs:get")
def get_job(request: Request, job_id: str, who: Reader, db: Db) -> JobOut:
    """One job: how far it is, and what came of it."""
    return out(request, db, [service.get(db, who.workspace_id, job_id)])[0]


@router.patch(f"{BASE}/{{job_id}}", name="api:jobs:change")
def change(request: Request, job_id: str, body: PriorityChange, who: Writer, db: Db) -> JobOut:
    """Give a job that waits another priority."""
    return out(request, db, [service.change_priority(db, who, job_id, body.priority)])[0]


@router.get(f"{BASE}/{{job_id}}/log", response_class=PlainTextResponse, name="api:jobs:log")
def get_log(job_id: str, who: Reader, db: Db, offset: Offset = 0) -> PlainTextResponse:
    """A piece of the log of all attempts from byte `offset`, as plain text. `x-next-offset` says
    where to go on, `x-more` whether there is more right now.
    """
    job = service.get(db, who.workspace_id, job_id)
    text, after, more = history.log_from(db, job.id, offset, final=job.state in FINAL)
    return PlainTextResponse(
        text, headers={"x-next-offset": str(after), "x-more": "true" if more else "false"}
    )


@router.get(f"{BASE}/{{job_id}}/metrics", name="api:jobs:metrics")
def get_metrics(job_id: str, who: Reader, db: Db) -> Metrics:
    """Every step, in order."""
    return Metrics(data=history.metrics(db, service.get(db, who.workspace_id, job_id).id))


@router.get(f"{BASE}/{{job_id}}/events", response_class=StreamingResponse, name="api:jobs:events")
def get_events(
    request: Request,
    job_id: str,
    who: Reader,
    db: Db,
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """Server-sent events: `state`, `log`, `metrics`, `event`; `done` when the job is over. Come
    back with Last-Event-ID to go on where you were.
    """
    job = service.get(db, who.workspace_id, job_id)
    return stream.response(job.id, last_event_id, stream.speaker(request))


@router.post(f"{BASE}/{{job_id}}/cancel", name="api:jobs:cancel")
def cancel(request: Request, job_id: str, who: Writer, db: Db) -> JobOut:
    """Stop for good."""
    return out(request, db, [service.cancel(db, who.workspace_id, job_id)])[0]


@router.post(f"{BASE}/{{job_id}}/pause", name="api:jobs:pause")
def pause(request: Request, job_id: str, who: Writer, db: Db) -> JobOut:
    """Save a checkpoint, stop, and give the devices back."""
    return out(request, db, [service.pause(db, who.workspace_id, job_id)])[0]


@router.post(f"{BASE}/{{job_id}}/resume", name="api:jobs:resume")
def resume(request: Request, job_id: str, who: Writer, db: Db) -> JobOut:
    """Queue a paused job again."""
    return out(request, db, [service.resume(db, who.workspace_id, job_id)])[0]


@router.post("/api/v1/models/{model_id}/merge", status_code=201, name="api:models:merge")
def merge(
    request: Request, model_id: str, who: Writer, db: Db, body: MergeCreate | None = None
) -> JobOut:
    """Start the merge of an adapter into its base: a stand-alone model, once the job is over."""
    job = service.create_merge(
        db,
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        adapter_id=model_id,
        name=body.name if body else None,
    )
    return out(request, db, [job])[0]
