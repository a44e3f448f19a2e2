"""`/api/v1/models/{id}/exports`: models as GGUF files, for llama.cpp and Ollama."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.accounts import audit
from app.accounts.auth import Principal, requires
from app.jobs import exports, service
from app.jobs.api import out
from app.jobs.schemas import JobOut
from app.jobs.spec import ExportFormat
from app.models import download
from app.models import service as models
from app.queue import Db, transaction

router = APIRouter(tags=["models"])


class ExportCreate(BaseModel):
    """The format to write a model in."""

    model_config = ConfigDict(extra="forbid")

    format: ExportFormat = Field("q8_0", description="float16, or 8 bits in blocks of 32")


class Export(BaseModel):
    """A job that writes a GGUF file; `bytes` is its size once it has."""

    job: str
    format: str
    state: str
    error: dict[str, Any] | None
    bytes: int | None
    created_at: datetime


class Exports(BaseModel):
    """Exports of a model, the newest first."""

    data: list[Export]
    has_more: bool = False


@router.post("/api/v1/models/{model_id}/exports", status_code=201, name="api:models:export")
def create(
    request: Request,
    model_id: str,
    body: ExportCreate,
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
) -> JobOut:
    """Write the model, an adapter together with its base, as one GGUF file with a Modelfile."""
    return out(request, db, [exports.create(db, who, model_id, body.format)])[0]


@router.get("/api/v1/models/{model_id}/exports", name="api:models:exports")
def index(
    model_id: str, who: Annotated[Principal, requires("viewer", "models:read")], db: Db
) -> Exports:
    """What the model was written as, the newest first."""
    model = models.get(db, who.workspace_id, model_id)
    jobs = exports.of_model(db, who.workspace_id, model.id)
    sizes = exports.sizes(db, jobs)
    return Exports(
        data=[
            Export(
                job=job.id,
                format=job.spec["format"],
                state=job.state,
                error=job.error,
                bytes=sizes.get(job.id),
                created_at=job.created_at,
            )
            for job in jobs
        ]
    )


@router.get("/api/v1/jobs/{job_id}/download", name="api:jobs:download")
def download_export(
    job_id: str, who: Annotated[Principal, requires("viewer", "models:read")]
) -> StreamingResponse:
    """What an export wrote, as one tar: model.gguf, Modelfile, the model's card and lineage."""
    with transaction() as db:  # over before the first byte is sent
        job = service.get(db, who.workspace_id, job_id)
        artefact = exports.ready(job)
        about = download.about(
            db, who.workspace_id, models.known(db, who.workspace_id, job.model_id)
        )
        audit.note(db, "download", "job", job.id, name=job.name, workspace_id=who.workspace_id)
    return download.response(about, artefact, f"{about.model.name}-{job.spec['format']}")
