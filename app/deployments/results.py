"""What a job asked for beforehand: that its result be deployed as soon as it is there."""

from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import principal_of
from app.deployments import service
from app.deployments.schemas import DeploymentCreate
from app.deployments.tables import Deployment
from app.errors import N_, Conflict, DomainError, Forbidden
from app.jobs import checkpoints, runs
from app.jobs.states import note
from app.jobs.tables import Job


class Ended(NamedTuple):
    mine: bool  # False: fenced out
    state: str | None  # of the job now
    deployed: bool


def finish(
    db: Session,
    node_id: str,
    job_id: str,
    fence: int,
    *,
    outcome: runs.Outcome,
    standing: list[checkpoints.Found] | None = None,
    error: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
) -> Ended:
    """`jobs.runs.end`, with the checkpoints that stand on the node, where it has looked, and what
    was asked beforehand.
    """
    if standing is not None:  # they are there when the job is seen to have ended
        checkpoints.keep(db, node_id, job_id, standing)
    mine = runs.end(db, job_id, fence, outcome=outcome, error=error, result=result)
    deployed = deploy(db, job_id) if mine and result else None
    return Ended(mine, db.scalar(select(Job.state).where(Job.id == job_id)), deployed is not None)


def deploy(db: Session, job_id: str) -> Deployment | None:
    """Deploy what a job has just made, in the transaction that registers it.

    What cannot be deployed is told in the job's events; the model stands all the same.
    """
    job = db.get_one(Job, job_id)
    if not job.deploy or job.state != "succeeded" or job.result_model_id is None:
        return None
    try:
        who = principal_of(db, job.workspace_id, job.created_by)
    except Forbidden as error:
        refused(db, job, error)
        return None
    for name in names(job.deploy):
        body = DeploymentCreate(name=name, model=job.result_model_id)
        try:
            with db.begin_nested():
                made = service.create(db, who, body)
        except Conflict as taken:
            if taken.code == "name_taken":
                continue
            refused(db, job, taken)
            return None
        except DomainError as refusal:
            refused(db, job, refusal)
            return None
        note(db, job, "deployed", N_("Deployed as %(name)s."), {"name": made.name})
        return made
    return None


def names(name: str) -> list[str]:
    """The name that was asked for, and what to call it where that is taken meanwhile."""
    return [name, *(f"{name[:60]}-{number}" for number in range(2, 10))]


def refused(db: Session, job: Job, refusal: DomainError) -> None:
    note(db, job, "warning", N_("The model was not deployed, though the job asked for it."), {})
    note(db, job, "warning", refusal.message, refusal.params)
