"""What the pages of jobs show, put together."""

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.accounts.tables import User
from app.config import settings
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.errors import N_, NotFound
from app.jobs import history, methods, priorities, service, stream, waiting
from app.jobs.data import parts_of, versions_of
from app.jobs.spec import Hyperparameters
from app.jobs.states import FINAL
from app.jobs.tables import Job, JobWebhook
from app.models.tables import Model

# The figures of an estimate and of an outcome, in the order in which they are shown.
FIGURES = {
    "rows": N_("Rows in an epoch"),
    "dropped": N_("Rows dropped"),
    "truncated": N_("Rows cut"),
    "tokens": N_("Tokens to train"),
    "steps": N_("Steps"),
    "peak_memory": N_("Memory on each device"),
    "tokens_per_second": N_("Tokens per second"),
    "seconds": N_("Time on devices"),
    "device_hours": N_("Device hours"),
    "cost": N_("Cost"),
}
TAIL = 64 * 1024  # bytes of log on a fresh page; the rest is a download away
BASIC = ("epochs", "learning_rate")  # on the form at once; the others are folded away


def rows(db: Session, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One per job: {job, reason, wait (of one that waits for devices), model, dataset (its version), live (it may still change)}."""
    models = {
        model.id: model
        for model in db.scalars(select(Model).where(Model.id.in_({job.model_id for job in jobs})))
    }
    data = versions(db, {job.dataset_version_id for job in jobs if job.dataset_version_id})
    reasons, waits = waiting.reasons(db, jobs), waiting.waits(db, jobs)
    return [
        {
            "job": job,
            "reason": reasons[job.id],
            "wait": waits.get(job.id),
            "model": models[job.model_id],
            "dataset": data.get(job.dataset_version_id or ""),
            "live": job.state not in FINAL and job.state != "paused",
        }
        for job in jobs
    ]


def versions(db: Session, ids: set[str]) -> dict[str, DatasetVersion]:
    """By id, each with its `.dataset`."""
    query = (
        select(DatasetVersion)
        .where(DatasetVersion.id.in_(ids))
        .options(joinedload(DatasetVersion.dataset))
        .execution_options(populate_existing=True)
    )
    return {version.id: version for version in db.scalars(query)}


def live(db: Session, job: Job, say: stream.Say) -> dict[str, Any]:
    """What changes while a job runs: its state, why it waits, how far it is, what came of it."""
    reason = waiting.reasons(db, [job])[job.id]
    explained = waiting.sentence(db, job, reason)
    pace = history.pace(db, job.id)
    return {
        "job": job,
        "reason": reason,
        "waits": say(*explained) if explained else "",
        "pace": pace,
        "elapsed": stream.elapsed(job),
        "eta": stream.snapshot(job, reason, pace, None)["eta"],
        "error": stream.error_of(job, say),
        "result": db.get(Model, job.result_model_id) if job.result_model_id else None,
        "wait": waiting.waits(db, [job]).get(job.id),
        "priority": priorities.PRIORITIES[job.priority],
    }


def detail(db: Session, job: Job, say: stream.Say) -> dict[str, Any]:
    """The job's page. `cursor` is where its stream goes on; the chart is the stream's to fill."""
    start = history.tail_start(db, job.id, TAIL)
    at = history.locate(db, job.id, start)
    piece = history.log_after(db, job.id, *at, final=job.state in FINAL)
    events = history.events(db, job.id)
    cursor = stream.Cursor(piece.fence, piece.offset, 0, events[-1].id if events else 0)
    data = versions(db, versions_of(job))
    return live(db, job, say) | {
        "model": db.get_one(Model, job.model_id),
        "dataset": data.get(job.dataset_version_id or ""),
        "validation": data.get(job.validation_version_id or ""),
        "evaluated_on": data.get((job.evaluation or {}).get("dataset", "")),
        "mix": [part | {"version": data[part["version"]]} for part in parts_of(job)],
        "author": db.get_one(User, job.created_by),
        "log": piece.text,
        "log_cut": start > 0,
        "events": [stream.event_of(event, say) for event in events if event.kind != "sample"],
        "hook": db.get(JobWebhook, job.id),
        "figures": figures(job),
        "cursor": str(cursor),
        "fields": form_fields(),
    }


def figures(job: Job) -> list[dict[str, Any]]:
    """What was expected beside what was measured: {name, title, estimate, outcome, currency}."""
    before, after = job.estimate or {}, job.outcome or {}
    return [
        {
            "name": name,
            "title": title,
            "estimate": before.get(name),
            "outcome": after.get(name),
            "currency": after.get("currency") or before.get("currency") or "",
        }
        for name, title in FIGURES.items()
        if before.get(name) is not None or after.get(name) is not None
    ]


def form_fields(stage: str = "", method: str = "") -> list[dict[str, Any]]:
    """The hyperparameters of a stage and a method, or all: {name, title, description, choices (or
    None), flag, lines (several values), own (of this stage or method alone), default}.

    Titles and descriptions are msgids. `default` is what an empty field means, as text.
    """
    usual = methods.complete(method or "lora", {}, stage=stage or "sft").model_dump()
    found = []
    for name, field in Hyperparameters.model_fields.items():
        if stage and not methods.applies(name, stage, method):
            continue
        origin = get_origin(field.annotation)
        found.append(
            {
                "name": name,
                "title": field.title,
                "description": field.description,
                "choices": get_args(field.annotation) if origin is Literal else None,
                "flag": field.annotation is bool,
                "lines": origin is list,
                "own": name in methods.FOR_METHOD or name in methods.FOR_STAGE,
                "default": "" if usual[name] in (None, []) else f"{usual[name]}",
            }
        )
    return found


def using(db: Session, workspace_id: str, version_id: str) -> tuple[list[dict[str, Any]], bool]:
    """The newest jobs of the workspace that read a dataset version, as `rows`. Raises NotFound."""
    seen = select(DatasetVersion.id).join(DatasetVersion.dataset)
    if not db.scalar(seen.where(DatasetVersion.id == version_id, datasets.visible(workspace_id))):
        raise NotFound(N_("There is no such version."))
    found, more = service.list_jobs(db, workspace_id, version_id=version_id, limit=20)
    return rows(db, found), more


SCRIPT = """\
#!/bin/sh
# Starts the job {id} again, on the same data and with the same settings.
# Needs an API key with the scope jobs:write in DANLU_API_KEY.
: "${{DANLU_API_KEY:?set it to an API key}}"
exec curl -fsS "${{DANLU_URL:-{url}}}/api/v1/jobs" \\
  -H "Authorization: Bearer $DANLU_API_KEY" -H "Content-Type: application/json" \\
  --data-binary @- <<'JSON'
{body}
JSON
"""


def script(job: Job) -> str:
    """The job's settings as a shell script that starts it again."""
    body = json.dumps(service.settings_of(job), ensure_ascii=False, indent=2)
    return SCRIPT.format(id=job.id, url=settings.url, body=body)
