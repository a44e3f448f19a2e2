"""Benchmarks: jobs of the stage `evaluate`, which ask a model the questions of C-Eval, MMLU and others.

The questions lie on nodes, which say in their heartbeat what they have (`workers.stages.layouts`); a
job runs where its benchmarks are. Its `spec` is {tasks, fewshot, limit, chat, node}, its `outcome`
has {scores, summary, libraries} besides what every job measures.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.cluster.service import unreachable
from app.cluster.tables import Node
from app.errors import N_, Conflict, Invalid
from app.jobs import service
from app.jobs.schemas import NAME
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model

MOST_LISTED = 200  # finished runs that a table of results compares


class BenchmarkCreate(BaseModel):
    """Ask a model the questions of benchmarks whose files lie on a node."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="Id or name of a base model, an adapter or a whole tuned model.")
    tasks: list[str] = Field(
        min_length=1, max_length=20, description="As `GET /api/v1/benchmarks` names them."
    )
    name: str = Field("", max_length=NAME)
    fewshot: int | None = Field(
        None, ge=0, le=32, description="Examples before each question; none: the task's own number."
    )
    limit: int | None = Field(
        None, ge=1, le=100_000, description="Questions of each task, at most: for a quick look."
    )
    chat: bool = Field(False, description="Put the questions into the model's chat template.")


@dataclass
class Known:
    """A benchmark, and the nodes on which its files are."""

    name: str
    title: str
    where: str  # its files, below a node's directory
    subjects: int = 0
    questions: int | None = None
    problem: str = ""  # what keeps its files from being read
    nodes: list[str] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        return bool(self.nodes)


def known(db: Session) -> list[Known]:
    """Every benchmark that a living node knows of, the ready ones first."""
    found: dict[str, Known] = {}
    nodes = select(Node).where(Node.dead_at.is_(None)).order_by(Node.id)
    for node in db.scalars(nodes):
        if unreachable(node):
            continue
        for told in node.facts.get("benchmarks") or []:
            one = found.setdefault(told["name"], Known(told["name"], told["title"], told["where"]))
            if told["problem"]:
                one.problem = one.problem or f"{node.id}: {told['problem']}"
            elif told["subjects"]:
                one.nodes.append(node.id)
                one.subjects, one.questions = told["subjects"], told["questions"]
    return sorted(found.values(), key=lambda one: not one.is_ready)


def create(db: Session, who: Principal, body: BenchmarkCreate) -> Job:
    """Queue it, on a node that has the files of all its benchmarks.

    Raises NotFound (the model), and Invalid for a benchmark that is not ready, or for several that
    are not ready on one node.
    """
    model = models.get(db, who.workspace_id, body.model)
    tasks = list(dict.fromkeys(body.tasks))
    ready = {one.name: one for one in known(db) if one.is_ready}
    if lacking := [name for name in tasks if name not in ready]:
        raise Invalid(
            N_("The data of %(names)s is on no node. Ready: %(ready)s."),
            code="benchmark_missing",
            field="tasks",
            names=", ".join(lacking)[:200],
            ready=", ".join(ready) or "–",
        )
    able = set.intersection(*(set(ready[name].nodes) for name in tasks))
    if not able:
        raise Invalid(
            N_("No node has the data of all of these. Start one job for each node."),
            code="benchmark_missing",
            field="tasks",
        )
    job = Job(
        workspace_id=who.workspace_id,
        created_by=who.user_id,
        name=body.name.strip() or f"{model.name[: NAME - 24]} {'+'.join(tasks)[:22]}",
        stage="evaluate",
        method="",
        model_id=model.id,
        spec={
            "tasks": tasks,
            "fewshot": body.fewshot,
            "limit": body.limit,
            "chat": body.chat,
            "node": min(able),
        },
        devices=1,
    )
    service.enqueue(db, job)
    return job


def asked(job: Job) -> dict[str, Any]:
    """What `RunSpec.benchmark` is told, without the node's directory."""
    return {name: job.spec.get(name) for name in ("tasks", "fewshot", "limit", "chat")}


def artefact(job: Job) -> str:
    """Where in the store the samples of a run are."""
    return f"benchmarks/{job.id}-{job.fence}"


def samples(job: Job) -> str:
    """The same, of one that has ended. Raises Conflict."""
    if job.stage != "evaluate" or job.state != "succeeded":
        raise Conflict(N_("This job has no answers to download."), code="no_samples")
    return artefact(job)


def listed(db: Session, workspace_id: str, model_id: str = "") -> list[tuple[Job, Model]]:
    """Runs of benchmarks with their models, the newest first, whatever became of them."""
    query = (
        select(Job, Model)
        .join(Model, Model.id == Job.model_id)
        .where(Job.workspace_id == workspace_id, Job.stage == "evaluate")
        .order_by(Job.created_at.desc(), Job.id)
        .limit(MOST_LISTED)
    )
    if model_id:
        query = query.where(Job.model_id == model_id)
    return [(job, model) for job, model in db.execute(query)]


@dataclass(frozen=True)
class Result:
    """What a model scored in one benchmark, and how it was asked: unlike ones do not compare."""

    job: Job
    model: Model
    benchmark: str
    metric: str  # the first that the benchmark's tasks name
    value: float
    questions: int
    versions: list[str]
    fewshot: list[int]  # as it was, by task
    limit: int | None
    chat: bool


def results(db: Session, workspace_id: str, model_id: str = "") -> list[Result]:
    """Of every run that has ended well, by benchmark, then the best first."""
    found = [
        result_of(job, model, name, total)
        for job, model in listed(db, workspace_id, model_id)
        if job.state == "succeeded"
        for name, total in ((job.outcome or {}).get("summary") or {}).items()
    ]
    return sorted(found, key=lambda one: (one.benchmark, -one.value))


def result_of(job: Job, model: Model, name: str, total: dict[str, float]) -> Result:
    scores = [
        score for score in (job.outcome or {})["scores"].values() if score["benchmark"] == name
    ]
    metric = next(key for key in total if key != "questions")
    return Result(
        job=job,
        model=model,
        benchmark=name,
        metric=metric,
        value=total[metric],
        questions=int(total["questions"]),
        versions=sorted({str(score["version"]) for score in scores}),
        fewshot=sorted({score["fewshot"] for score in scores if score["fewshot"] is not None}),
        limit=job.spec.get("limit"),
        chat=bool(job.spec.get("chat")),
    )
