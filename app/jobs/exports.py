"""Models as GGUF files: the jobs that write them, and what they have written.

An export is a job of the stage `export`; its `spec` is {format}, and what it wrote stands in the
store under an id that follows from the attempt.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.errors import N_, Conflict, Invalid
from app.jobs import service
from app.jobs.schemas import NAME
from app.jobs.spec import ExportFormat
from app.jobs.states import FINAL, note
from app.jobs.tables import Job, JobEvent
from app.models import service as models
from app.models.weights import GGUF

EXPORTED = N_("Exported: %(bytes)s bytes.")


def create(db: Session, who: Principal, model_id: str, form: ExportFormat) -> Job:
    """Queue the export of a model; one that waits or runs for the same is given again.

    Raises NotFound, and Invalid for an architecture that llama.cpp does not know.
    """
    model = models.get(db, who.workspace_id, model_id)
    if model.architecture not in GGUF:
        raise Invalid(
            N_("%(name)s is a %(architecture)s, which cannot be exported as GGUF. Can: %(known)s."),
            code="unsupported_export",
            name=model.name,
            architecture=model.architecture or "?",
            known=", ".join(GGUF),
        )
    for job in of_model(db, who.workspace_id, model.id):
        if job.state not in FINAL and job.spec.get("format") == form:
            return job
    job = Job(
        workspace_id=who.workspace_id,
        created_by=who.user_id,
        name=f"{model.name[: NAME - 10]}-{form}",
        stage="export",
        method="",
        model_id=model.id,
        spec={"format": form},
        devices=1,
    )
    service.enqueue(db, job)
    return job


def of_model(db: Session, workspace_id: str, model_id: str) -> list[Job]:
    """The newest exports of a model, whatever became of them."""
    query = select(Job).where(
        Job.workspace_id == workspace_id, Job.model_id == model_id, Job.stage == "export"
    )
    return list(db.scalars(query.order_by(Job.created_at.desc(), Job.id).limit(20)))


def artefact(job: Job) -> str:
    """Where in the store the files of an export are."""
    return f"exports/{job.id}-{job.fence}"


def ready(job: Job) -> str:
    """The same, of one that can be downloaded. Raises Conflict."""
    if job.stage != "export":
        raise Conflict(
            N_("This job has made no file of its own. Download the model that it made."),
            code="no_export",
        )
    if job.state != "succeeded":
        raise Conflict(N_("This export is %(state)s: there is no file."), state=job.state)
    return artefact(job)


def done(db: Session, job: Job, result: dict[str, Any]) -> None:
    note(db, job, "exported", EXPORTED, {"bytes": int(result.get("bytes") or 0)})


def sizes(db: Session, jobs: list[Job]) -> dict[str, int]:
    """Bytes of the GGUF file, by job."""
    events = db.scalars(
        select(JobEvent).where(
            JobEvent.job_id.in_({job.id for job in jobs}), JobEvent.kind == "exported"
        )
    )
    return {event.job_id: int(event.params["bytes"]) for event in events}
