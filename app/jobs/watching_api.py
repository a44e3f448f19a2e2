"""`/api/v1/jobs`: what will happen, what happens, and what differs between runs."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from app.accounts.auth import Principal, requires
from app.jobs import comparing, forecast, loads, service, starts, stream, watching, webhook
from app.jobs.api import BASE, out
from app.jobs.schemas import JobCreate, JobOut
from app.jobs.watching_schemas import (
    ComparisonOut,
    EstimateOut,
    LoadsOut,
    SamplesOut,
    VerdictOut,
    WebhookKeyOut,
)
from app.queue import Db

router = APIRouter(tags=["jobs"])
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]


@router.post(f"{BASE}/estimate", name="api:jobs:estimate")
def estimate(request: Request, body: JobCreate, who: Writer, db: Db) -> EstimateOut:
    """What will happen if this is started: every figure with its calculation, whether it fits now,
    later or never, and what would make it fit. Rows nobody has counted yet are being counted from
    now on: while `measuring` is a number, ask again.
    """
    model = starts.find(db, who.workspace_id, body.model).model
    chosen = service.choose_data(db, who.workspace_id, body)
    found = forecast.of(db, who.workspace_id, model, chosen, body)
    return EstimateOut.of(found, stream.speaker(request))


@router.get(f"{BASE}/compare", name="api:jobs:compare")
def compare(
    request: Request, who: Reader, db: Db, ids: Annotated[str, Query(max_length=400)] = ""
) -> ComparisonOut:
    """What differs between jobs; `ids` stand between commas."""
    jobs = comparing.chosen(db, who.workspace_id, ids)
    table = comparing.differences(db, jobs) if jobs else []
    return ComparisonOut.of(jobs, table, stream.speaker(request))


@router.get(f"{BASE}/webhook-key", name="api:jobs:webhook_key")
def webhook_key(who: Writer, db: Db) -> WebhookKeyOut:
    """What the workspace's webhooks are signed with, as standardwebhooks.com has it."""
    return WebhookKeyOut(key=webhook.key(db, who.workspace_id))


@router.post(f"{BASE}/webhook-key", name="api:jobs:replace_webhook_key")
def replace_webhook_key(
    who: Annotated[Principal, requires("admin", "jobs:write")], db: Db
) -> WebhookKeyOut:
    """Replace it. For a day webhooks are signed with both, the new one first, so that receivers can
    change over; then the former counts no more.
    """
    return WebhookKeyOut(key=webhook.replace_key(db, who.workspace_id))


@router.get(f"{BASE}/{{job_id}}/verdict", name="api:jobs:verdict")
def verdict(request: Request, job_id: str, who: Reader, db: Db) -> VerdictOut:
    """What the loss curve says so far."""
    found = watching.judged(db, service.get(db, who.workspace_id, job_id))
    return VerdictOut.of(found, stream.speaker(request))


@router.get(f"{BASE}/{{job_id}}/devices", name="api:jobs:devices")
def devices(job_id: str, who: Reader, db: Db) -> LoadsOut:
    """What the job's devices did while it ran: readings, ever more coarse with time."""
    job = service.get(db, who.workspace_id, job_id)
    return LoadsOut(data=loads.shown(loads.of(db, job.id)))


@router.get(f"{BASE}/{{job_id}}/samples", name="api:jobs:samples")
def samples(job_id: str, who: Reader, db: Db) -> SamplesOut:
    """Answers to the job's fixed prompts at each evaluation, and the base model's."""
    job = service.get(db, who.workspace_id, job_id)
    found: list[dict[str, Any]] = watching.samples(db, job.id)
    return SamplesOut(data=found)


@router.post(f"{BASE}/{{job_id}}/finish", name="api:jobs:finish")
def finish(request: Request, job_id: str, who: Writer, db: Db) -> JobOut:
    """Stop at the next step and keep what was learnt."""
    return out(request, db, [service.finish(db, who.workspace_id, job_id)])[0]
