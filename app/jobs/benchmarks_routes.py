"""`/benchmarks`: which are ready, a form to start one, and the table of what came of them."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, Field

from app.accounts.auth import Principal, requires
from app.errors import DomainError
from app.jobs import benchmarks
from app.jobs.benchmarks import BenchmarkCreate
from app.models import service as models
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/benchmarks", include_in_schema=False)
Ticked = Annotated[  # one box alone comes as a word
    list[str], BeforeValidator(lambda found: [found] if isinstance(found, str) else found)
]


class BenchmarkForm(BaseModel):
    model: str = Field(min_length=1)
    tasks: Ticked = Field(min_length=1)
    fewshot: int | None = Field(None, ge=0, le=32)
    limit: int | None = Field(None, ge=1, le=100_000)
    chat: bool = False


@router.get("", name="jobs:benchmarks")
def index(
    request: Request, who: Annotated[Principal, requires("viewer", "jobs:read")], db: Db
) -> Response:
    return page(request, who, db)


def page(
    request: Request, who: Principal, db: Db, form: Parsed[BenchmarkForm] | None = None
) -> Response:
    return render(
        request,
        "jobs/benchmarks.html",
        status=422 if form else 200,
        form=form,
        known=benchmarks.known(db),
        models=models.visible(db, who.workspace_id, limit=200),
        chosen=request.query_params.get("model", ""),
        results=benchmarks.results(db, who.workspace_id),
        runs=benchmarks.listed(db, who.workspace_id)[:20],
    )


@router.post("", name="jobs:benchmark")
def create(
    request: Request,
    form: Annotated[Parsed[BenchmarkForm], parsed(BenchmarkForm)],
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
) -> Response:
    if form.data is None:
        return page(request, who, db, form)
    try:
        job = benchmarks.create(db, who, BenchmarkCreate(**form.data.model_dump()))
    except DomainError as error:
        form.refuse(error)
        return page(request, who, db, form)
    return redirect(request, "jobs:detail", job_id=job.id)
