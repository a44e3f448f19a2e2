"""Checkpoints of jobs: which stand on a node, and how one becomes a model of the registry.

The node says what stands there (`keep`); a person asks for one to be published; the node puts its
files into the store and says so (`published`). A row that is asked for stays until that is done.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.cluster import service as cluster
from app.errors import N_, NotFound
from app.jobs import history, runs, service, starts
from app.jobs.states import note
from app.jobs.tables import Job, JobCheckpoint
from app.models import service as models
from app.models.tables import Model


@dataclass(frozen=True)
class Found:
    """A complete checkpoint in a run directory."""

    step: int
    fence: int
    loss: float | None
    eval_loss: float | None
    size: int


# -- what a person does ------------------------------------------------------------------


def of_job(db: Session, job: Job) -> list[JobCheckpoint]:
    """The newest first."""
    query = select(JobCheckpoint).where(JobCheckpoint.job_id == job.id)
    return list(db.scalars(query.order_by(JobCheckpoint.step.desc())))


def publish(db: Session, who: Principal, job_id: str, step: int, name: str = "") -> JobCheckpoint:
    """Ask for a checkpoint to become a model; twice is once. Raises NotFound and Conflict."""
    job = service.get(db, who.workspace_id, job_id)
    models.get(db, who.workspace_id, job.model_id)  # what it was made from must still be there
    row = db.scalar(
        select(JobCheckpoint)
        .where(JobCheckpoint.job_id == job.id, JobCheckpoint.step == step)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise NotFound(N_("There is no checkpoint of this step: the newest ones are kept."))
    starts.publish(db, job, row, who.user_id, name)
    return row


# -- what a node does --------------------------------------------------------------------


def keep(db: Session, node_id: str, job_id: str, found: list[Found]) -> None:
    """All checkpoints of a job that this node has now; what it had and has no more goes."""
    if db.get(Job, job_id) is None:
        return
    cluster.lock(db)  # before rows of jobs, which may wait for one of these
    there = {one.step: one for one in found}
    mine = select(JobCheckpoint).where(JobCheckpoint.job_id == job_id).with_for_update()
    rows = {row.step: row for row in db.scalars(mine)}
    for step, row in rows.items():
        if row.node_id != node_id or step in there:
            continue
        if row.state == "publishing":
            fail(db, row, GONE)
        elif row.state != "published":
            db.delete(row)
    for step, one in there.items():
        row = rows.get(step) or JobCheckpoint(job_id=job_id, step=step)
        if step in rows and row.fence > one.fence:
            continue
        row.fence, row.node_id, row.size = one.fence, node_id, one.size
        row.loss, row.eval_loss = one.loss, one.eval_loss
        db.add(row)
    db.flush()


GONE = {
    "code": "checkpoint_gone",
    "message": N_("The checkpoint was removed before it could be published."),
    "params": {},
}


def on_node(db: Session, node_id: str) -> set[str]:
    """Jobs of which this node is said to have checkpoints."""
    rows = select(JobCheckpoint.job_id).where(
        JobCheckpoint.node_id == node_id, JobCheckpoint.state != "published"
    )
    return set(db.scalars(rows.distinct()))


def wanted(db: Session, node_id: str) -> list[JobCheckpoint]:
    """Checkpoints that this node has to publish."""
    return list(
        db.scalars(
            select(JobCheckpoint).where(
                JobCheckpoint.node_id == node_id, JobCheckpoint.state == "publishing"
            )
        )
    )


def base_of(db: Session, job_id: str) -> tuple[str, str]:
    """(artefact, name) of the base model that a job's weights stand on."""
    model = db.get_one(Model, db.get_one(Job, job_id).model_id)
    base = db.get_one(Model, model.base_id) if model.base_id else model
    return base.artefact, base.name


def artefact(row: JobCheckpoint) -> str:
    """Where in the store its model is to be."""
    return f"models/{row.job_id}-{row.fence}-step-{row.step}"


def published(db: Session, job_id: str, step: int, result: dict[str, Any]) -> bool:
    """Its files stand in the store: register them. False if nobody wants that any more."""
    cluster.lock(db)
    row = db.get(JobCheckpoint, (job_id, step), with_for_update=True, populate_existing=True)
    if row is None or row.state != "publishing":
        return False
    job = db.get_one(Job, job_id)
    result = result | {"step": step, "loss": row.loss, "eval_loss": row.eval_loss}
    made = runs.model_of(db, job, result, row.name)
    made.created_by = row.user_id
    row.state, row.model_id = "published", made.id
    note(
        db,
        job,
        "published",
        N_("The checkpoint of step %(step)s is the model %(name)s now."),
        {"step": step, "name": made.name, "model": made.id},
    )
    for follower in starts.waiting(db, row):
        starts.begin(db, follower, made)
        if follower.state == "queued":
            runs.ask_or_fail(db, follower)
    return True


def refuse(db: Session, job_id: str, step: int, error: dict[str, Any]) -> None:
    cluster.lock(db)
    row = db.get(JobCheckpoint, (job_id, step), with_for_update=True, populate_existing=True)
    if row is not None and row.state == "publishing":
        fail(db, row, error)


def lost(db: Session, node_id: str) -> None:
    """The node is dead: nobody publishes what only it had."""
    for row in wanted(db, node_id):
        refuse(db, row.job_id, row.step, GONE)


def fail(db: Session, row: JobCheckpoint, error: dict[str, Any]) -> None:
    """A job that waits for it fails with the same words; a paused one is told when it is resumed."""
    row.state, row.error = "failed", history.storable(error)
    for follower in starts.waiting(db, row):
        if follower.state == "queued":
            runs.fail(db, follower, error)
    db.flush()
