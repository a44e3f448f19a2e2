"""Who answers for a candidate: what runs already, or an engine that is started for it.

Such an engine is a deployment like any other, under the quota of its workspace; it goes when the
candidate has answered, and when the evaluation is stopped.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import principal_of
from app.deployments import aliases
from app.deployments import service as deployments
from app.deployments.schemas import DeploymentCreate
from app.deployments.tables import Deployment
from app.errors import N_, Conflict, DomainError, NotFound
from app.evaluations.perplexity import choosing as perplexity
from app.evaluations.tables import Candidate, Evaluation
from app.jobs import starts
from app.jobs.tables import Job, JobCheckpoint
from app.models import service as models
from app.models.tables import Model
from app.queue import transaction

STARTS = N_("The engine of %(name)s starts.")
WAITS = N_("The engine of %(name)s waits for a device.")
PUBLISHES = N_("The checkpoint %(name)s becomes a model first.")


@dataclass(frozen=True)
class Found:
    """`name` is what to ask, or empty while it cannot be asked, and `waits` says why."""

    name: str = ""
    waits: dict[str, Any] | None = None


def ready(evaluation_id: str, candidate_id: str) -> Found:
    """Look, and start what has to be. Raises DomainError if there will never be answers."""
    with transaction() as db:
        evaluation = db.get_one(Evaluation, evaluation_id)
        one = db.get_one(Candidate, candidate_id, with_for_update=True)
        if one.kind == "deployment":
            one.served_name = one.target
            return Found(one.target)
        if one.model_id is None and (waits := become(db, evaluation, one)):
            return Found(waits=waits)
        if one.deployment_id is None:
            if name := running(db, evaluation, str(one.model_id)):
                one.served_name = name
                return Found(name)
            start(db, evaluation, one)
        return look(db, one)


def become(db: Session, evaluation: Evaluation, one: Candidate) -> dict[str, Any] | None:
    """Have the checkpoint made a model; None once it is one, else why it takes time."""
    start = starts.find(db, evaluation.workspace_id, one.target)
    if start.waits is None:
        one.model_id = start.model.id
        return None
    job_id, step = start.waits.split("/checkpoint-")
    row = db.get(JobCheckpoint, (job_id, int(step)), with_for_update=True, populate_existing=True)
    if row is None:
        raise starts.gone(one.target)
    if row.state == "failed":
        error = row.error or {}
        raise Conflict(
            error.get("message") or N_("The checkpoint could not be made a model."),
            code="checkpoint_failed",
            **error.get("params", {}),
        )
    starts.publish(db, db.get_one(Job, job_id), row, evaluation.created_by)
    return {"message": PUBLISHES, "params": {"name": one.target}}


def running(db: Session, evaluation: Evaluation, model_id: str) -> str:
    """The name of a deployment that serves this very model now, and can do all that is asked; empty
    if none does.
    """
    here = evaluation.workspace_id
    found, _ = deployments.list_deployments(db, here, model_id=model_id, state="ready")
    names = [one.name for one in found if one.model_id == model_id]
    if perplexity.wanted(evaluation.scorers):
        names = [name for name in names if perplexity.able(db, here, name)]
    return next(iter(names), "")


def start(db: Session, evaluation: Evaluation, one: Candidate) -> None:
    who = principal_of(db, evaluation.workspace_id, evaluation.created_by)
    name = f"eval-{evaluation.id.removeprefix('ev_')[:12]}-{one.position}"
    body: dict[str, Any] = {"name": name, "model": one.model_id}
    if perplexity.wanted(evaluation.scorers):
        body |= perplexity.wishes(db.get_one(Model, one.model_id))
    made = deployments.create(db, who, DeploymentCreate.model_validate(body))
    one.deployment_id, one.served_name, one.state = made.id, made.name, "starting"


def look(db: Session, one: Candidate) -> Found:
    """How far the engine is. Raises DomainError if it does not start."""
    deployment = db.get(Deployment, one.deployment_id)
    if deployment is None or deployment.deleted_at is not None:
        raise NotFound(N_("The engine was removed before it had answered."), code="engine_gone")
    if deployment.state == "ready":
        return Found(deployment.name)
    if deployment.state == "error":
        error = deployment.error or {}
        raise Conflict(
            error.get("message") or N_("The engine did not start."),
            code=error.get("code") or "engine_failed",
            **error.get("params", {}),
        )
    waiting = deployment.state == "pending" and deployment.reason
    return Found(waits={"message": WAITS if waiting else STARTS, "params": {"name": one.label}})


def remove(db: Session, one: Candidate) -> None:
    """Stop the engine that was started for it; twice is once."""
    if one.deployment_id is None:
        return
    deployment = db.get(Deployment, one.deployment_id)
    if deployment is not None and deployment.deleted_at is None:
        deployments.delete(db, deployment.workspace_id, deployment.id)
    one.deployment_id = None


def release(candidate_id: str) -> None:
    """As `remove`, in a unit of work of its own. What an alias leads to by now stays."""
    try:
        with transaction() as db:
            remove(db, db.get_one(Candidate, candidate_id, with_for_update=True))
    except DomainError:  # somebody made use of it: it is theirs now
        with transaction() as db:
            db.get_one(Candidate, candidate_id).deployment_id = None


# -- when one is chosen ------------------------------------------------------------------


def choose(db: Session, workspace_id: str, kind: str, target: str) -> tuple[str, str, str | None]:
    """Of a candidate: its target as it is kept, a label, and its model where that is known.

    Raises NotFound and Conflict, where there is no such thing here.
    """
    if kind == "deployment":
        return target, target, served(db, workspace_id, target)
    if kind == "model":
        model = models.get(db, workspace_id, target)
        if model.scores:
            raise Conflict(
                N_("%(name)s is a reward model: it scores answers, and writes none."),
                code="reward_model",
                name=model.name,
            )
        return model.id, model.name, model.id
    start = starts.find(db, workspace_id, target)
    made = None if start.waits else start.model.id
    return (
        target,
        f"{start.name} · {target.rpartition('-')[2]}" if start.waits else start.name,
        made,
    )


def served(db: Session, workspace_id: str, name: str) -> str | None:
    """The model behind a name at /v1, that most requests go to. Raises NotFound."""
    found = next((one for one in deployments.names(db, workspace_id) if one.name == name), None)
    if found is not None:
        return db.scalar(select(Deployment.model_id).where(Deployment.id == found.deployment_id))
    split = aliases.split(db, workspace_id, name)
    wanted = max(split, key=lambda one: one[1])[0] if split else name
    model_id = db.scalar(
        select(Deployment.model_id).where(
            Deployment.workspace_id == workspace_id,
            Deployment.name == wanted,
            Deployment.deleted_at.is_(None),
        )
    )
    if model_id is None:
        raise NotFound(
            N_("There is no model called %(name)s here. /v1/models lists those there are."),
            code="model_not_found",
            name=name[:200],
        )
    return model_id
