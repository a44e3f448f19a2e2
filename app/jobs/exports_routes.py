"""The part of a model's page that offers it as a GGUF file."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.accounts.auth import Principal, requires
from app.jobs import exports
from app.jobs.spec import ExportFormat
from app.models import service as models
from app.models.weights import GGUF
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/jobs", include_in_schema=False)


class ExportForm(BaseModel):
    model: str
    format: ExportFormat = "q8_0"


@router.get("/exports/{model_id}", name="jobs:exports")
def index(
    request: Request,
    model_id: str,
    who: Annotated[Principal, requires("viewer", "models:read")],
    db: Db,
) -> Response:
    model = models.get(db, who.workspace_id, model_id)
    found = exports.of_model(db, who.workspace_id, model.id)
    return render(
        request,
        "jobs/exports.html",
        model=model,
        exports=found,
        sizes=exports.sizes(db, found),
        possible=model.architecture in GGUF,
    )


@router.post("/export", name="jobs:export")
def create(
    request: Request,
    form: Annotated[Parsed[ExportForm], parsed(ExportForm)],
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
) -> Response:
    """From a model's page."""
    asked = form.data or ExportForm(model="")
    job = exports.create(db, who, asked.model, asked.format)
    return redirect(request, "jobs:detail", job_id=job.id)
