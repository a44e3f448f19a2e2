"""What a job starts from: a model of the registry, or a checkpoint of an earlier job.

`job_…/checkpoint-120` names a checkpoint. One that is no model yet becomes one on the way: the job
waits (`Job.start`) until the node has put the files into the store, and then starts from that
model as from any other. So nothing that clears checkpoints away can take it from the job, any node
can run the job, an adapter is gone on with or stacked, and the lineage is that of a model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Row, or_, select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.errors import N_, Conflict, NotFound
from app.jobs import methods
from app.jobs.states import note
from app.jobs.tables import Job, JobCheckpoint
from app.models import service as models
from app.models.tables import Model

NAMED = re.compile(r"(job_\w{1,40})/checkpoint-(\d{1,9})")
LONGEST = 64  # characters of a model's name
OFFERED = 100  # checkpoints in the form


@dataclass(frozen=True)
class Start:
    """`model` is what the job starts from or, while `waits` names a checkpoint that is no model
    yet, the base model that it stands on.
    """

    model: Model
    adapter: bool
    scores: bool
    name: str
    waits: str | None = None


def name_of(row: JobCheckpoint) -> str:
    return f"{row.job_id}/checkpoint-{row.step}"


def find(db: Session, workspace_id: str, wanted: str) -> Start:
    """By a model's id or name, or a checkpoint's name. Raises NotFound, and Conflict for a
    checkpoint that cannot be had.
    """
    match = NAMED.fullmatch(wanted)
    if match is None:
        model = models.get(db, workspace_id, wanted)
        return Start(model, model.kind == "adapter", model.scores, model.name)
    job = db.get(Job, match[1])
    row = db.get(JobCheckpoint, (match[1], int(match[2])))
    if job is None or job.workspace_id != workspace_id or row is None:
        raise gone(wanted)
    if made := made_of(db, row):
        return find(db, workspace_id, made.id)
    parent = models.get(db, workspace_id, job.model_id)
    check(db, job, row)
    return Start(
        models.get(db, workspace_id, parent.base_id)
        if parent.kind == "adapter" and parent.base_id
        else parent,
        job.method in methods.ADAPTERS,
        job.stage == "reward",
        job.name,
        name_of(row),
    )


def gone(wanted: str) -> NotFound:
    return NotFound(
        N_(
            "There is no checkpoint %(checkpoint)s any more. The newest ones are kept while a job"
            " runs, and for some days after it; what was published stays."
        ),
        code="checkpoint_not_found",
        field="model",
        checkpoint=wanted,
    )


def made_of(db: Session, row: JobCheckpoint) -> Model | None:
    """The model that the checkpoint became, unless that was deleted."""
    made = db.get(Model, row.model_id) if row.model_id else None
    return made if made and not made.deleted_at else None


def check(db: Session, job: Job, row: JobCheckpoint) -> None:
    """Raises Conflict for a checkpoint that no model can be made of now."""
    if job.stage == "reward" and job.method in methods.ADAPTERS:
        raise Conflict(
            N_(
                "A reward model that is trained with LoRA is whole only once its job is done: a"
                " checkpoint of it is no model."
            ),
            field="model",
        )
    if not cluster.usable(db, row.node_id):
        raise Conflict(
            N_("Node %(node)s has this checkpoint, and cannot be reached now."),
            field="model",
            node=row.node_id,
        )


def publish(db: Session, job: Job, row: JobCheckpoint, user_id: str, name: str = "") -> None:
    """Have the node make a model of the checkpoint, whose row is locked; twice is once."""
    if row.state == "publishing" or made_of(db, row):
        return
    check(db, job, row)
    row.name = (name or f"{job.name[: LONGEST - 12]}-step-{row.step}").strip()
    row.state, row.user_id, row.error, row.model_id = "publishing", user_id, None, None
    db.flush()


def offered(db: Session, workspace_id: str) -> Sequence[Row[JobCheckpoint, Job]]:
    """Checkpoints that are no models yet, to start from: those of the newest jobs first."""
    return db.execute(
        select(JobCheckpoint, Job)
        .join(Job, Job.id == JobCheckpoint.job_id)
        .outerjoin(Model, Model.id == JobCheckpoint.model_id)
        .where(
            Job.workspace_id == workspace_id,
            or_(Job.stage != "reward", Job.method.not_in(methods.ADAPTERS)),
            or_(Model.id.is_(None), Model.deleted_at.is_not(None)),
        )
        .order_by(Job.created_at.desc(), Job.id, JobCheckpoint.step.desc())
        .limit(OFFERED)
    ).all()


# -- jobs that wait for one --------------------------------------------------------------


def ready(db: Session, job: Job) -> bool:
    """Whether what the job starts from is a model by now; if it is none, one is asked for.

    Raises NotFound and Conflict where the checkpoint cannot be had.
    """
    if job.start is None:
        return True
    cluster.lock(db)
    earlier, step = job.start.split("/checkpoint-")
    row = db.get(JobCheckpoint, (earlier, int(step)), with_for_update=True, populate_existing=True)
    if row is None:
        raise gone(job.start)
    if made := made_of(db, row):
        begin(db, job, made)
        return True
    publish(db, db.get_one(Job, earlier), row, job.created_by)
    return False


def begin(db: Session, job: Job, model: Model) -> None:
    """The checkpoint that the job waited for is `model` now."""
    models.unpin(db, job.model_id, "job", job.id)
    models.pin(db, model.id, "job", job.id, job.name)
    job.model_id, job.start = model.id, None
    note(
        db,
        job,
        "start",
        N_("The checkpoint that it starts from is the model %(name)s now."),
        {"name": model.name, "model": model.id},
    )


def waiting(db: Session, row: JobCheckpoint) -> list[Job]:
    """The jobs that wait for the checkpoint, locked; the cluster's lock comes first."""
    return list(
        db.scalars(
            select(Job)
            .where(Job.start == name_of(row), Job.state.in_(("queued", "paused")))
            .order_by(Job.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    )
