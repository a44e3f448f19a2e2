"""`/api/v1/benchmarks`: C-Eval, CMMLU, MMLU, GSM8K and others, asked with lm-eval."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.accounts.auth import Principal, requires
from app.jobs import benchmarks, service
from app.jobs.api import out
from app.jobs.benchmarks import BenchmarkCreate
from app.jobs.schemas import JobOut
from app.models import download
from app.models import service as models
from app.queue import Db, transaction

router = APIRouter(prefix="/api/v1", tags=["evaluations"])
Reader = Annotated[Principal, requires("viewer", "jobs:read")]


class BenchmarkOut(BaseModel):
    """A benchmark; `where` says which files a node must have for it, below DANLU_BENCHMARKS."""

    name: str
    title: str
    where: str
    ready: bool
    subjects: int
    questions: int | None
    problem: str
    nodes: list[str]


class Benchmarks(BaseModel):
    """The ready ones first."""

    data: list[BenchmarkOut]
    has_more: bool = False


class BenchmarkResult(BaseModel):
    """A model's score in a benchmark, from 0 to 1, and how it was asked."""

    job: str
    model: str
    model_name: str
    benchmark: str
    metric: str
    value: float
    questions: int
    versions: list[str]
    fewshot: list[int]
    limit: int | None
    chat: bool
    finished_at: datetime | None


class BenchmarkResults(BaseModel):
    """By benchmark, the best first."""

    data: list[BenchmarkResult]
    has_more: bool = False


@router.get("/benchmarks", name="api:benchmarks")
def index(_: Reader, db: Db) -> Benchmarks:
    """Which benchmarks are ready, and what the others lack."""
    return Benchmarks(
        data=[BenchmarkOut(ready=one.is_ready, **vars(one)) for one in benchmarks.known(db)]
    )


@router.post("/benchmarks", status_code=201, name="api:benchmarks:create")
def create(
    request: Request,
    body: BenchmarkCreate,
    who: Annotated[Principal, requires("member", "jobs:write")],
    db: Db,
) -> JobOut:
    """Ask a model the questions of benchmarks. It is a job: it waits, runs, pauses and resumes."""
    return out(request, db, [benchmarks.create(db, who, body)])[0]


@router.get("/benchmarks/results", name="api:benchmarks:results")
def results(who: Reader, db: Db, model: str = "") -> BenchmarkResults:
    """The scores of the workspace's runs; of one model where `model` is its id or name."""
    of = models.get(db, who.workspace_id, model).id if model else ""
    return BenchmarkResults(
        data=[
            BenchmarkResult(
                **{
                    name: value for name, value in vars(one).items() if name not in ("job", "model")
                },
                job=one.job.id,
                model=one.model.id,
                model_name=one.model.name,
                finished_at=one.job.finished_at,
            )
            for one in benchmarks.results(db, who.workspace_id, of)
        ]
    )


@router.get("/jobs/{job_id}/samples.tar", name="api:jobs:samples")
def samples(
    job_id: str, who: Annotated[Principal, requires("viewer", "models:read")]
) -> StreamingResponse:
    """Every question of a run with the model's answer and score: JSON lines by task, as one tar."""
    with transaction() as db:  # over before the first byte is sent
        job = service.get(db, who.workspace_id, job_id)
        artefact = benchmarks.samples(job)
        about = download.about(
            db, who.workspace_id, models.known(db, who.workspace_id, job.model_id)
        )
    return download.response(about, artefact, f"{about.model.name}-{'-'.join(job.spec['tasks'])}")
