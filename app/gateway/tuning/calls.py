"""Calls of tuned models that nobody has deployed, by their `ft:` names.

What becomes of such a call is the workspace's to say: nothing (`off`), the adapter is loaded onto
engines of its base that run (`load`), or an engine is started where there is none (`start`). What
a call has deployed is a deployment as any other, and sleeps when nobody asks it.
"""

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import principal_of
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.db import now
from app.deployments import guests, view
from app.deployments import service as deployments
from app.deployments.schemas import DeploymentCreate
from app.deployments.tables import Deployment
from app.errors import N_, Conflict, NotFound
from app.gateway.tuning import names
from app.models.tables import Model
from app.queue import transaction

log = structlog.get_logger()

MODES = ("off", "load", "start")
IDLE_MINUTES = 30  # without a call, after which it sleeps


class NotDeployed(NotFound):
    """There is such a tuned model, and nothing serves it."""


def mode(db: Session, workspace_id: str) -> str:
    return db.get_one(Workspace, workspace_id).tuned_calls


def change(db: Session, workspace_id: str, wanted: str) -> None:
    """`wanted` is one of MODES."""
    db.get_one(Workspace, workspace_id).tuned_calls = wanted


def deployment(db: Session, workspace_id: str, name: str) -> str:
    """What the deployment is called that answers for an `ft:` name, one that is ready first.

    Raises NotFound (no such model) and NotDeployed.
    """
    found = names.find(db, workspace_id, name)
    served = served_by(db, workspace_id, found.id) if isinstance(found, Model) else None
    if served is None:
        raise NotDeployed(names.NO_MODEL, code="model_not_found", field="model", name=name[:200])
    return served


def served_by(db: Session, workspace_id: str, model_id: str) -> str | None:
    return db.scalar(
        select(Deployment.name)
        .where(
            Deployment.workspace_id == workspace_id,
            Deployment.model_id == model_id,
            Deployment.deleted_at.is_(None),
        )
        .order_by(
            (Deployment.state == "ready").desc(),
            (Deployment.desired != "stopped").desc(),
            Deployment.created_at,
        )
        .limit(1)
    )


def serve(workspace_id: str, user_id: str, name: str) -> None:
    """Deploy the model of an `ft:` name, as far as the workspace lets calls do that.

    Raises Conflict where it does not, Unavailable for a checkpoint that is made a model first, and
    what deploying raises: no such devices, no quota.
    """
    with transaction() as db:
        allowed = mode(db, workspace_id)
        found = names.find(db, workspace_id, name)
    if allowed == "off":
        raise Conflict(
            N_(
                "%(name)s is not deployed, and this workspace does not let calls load tuned "
                "models. Deploy it first."
            ),
            code="model_not_deployed",
            field="model",
            name=name[:200],
        )
    with transaction() as db:
        who = principal_of(db, workspace_id, user_id)
    if not isinstance(found, Model):
        raise names.publish(who, found, name)
    with transaction() as db:
        cluster.lock(db)  # many calls at once deploy it once
        if served_by(db, workspace_id, found.id):
            return
        made = deployments.create(
            db,
            who,
            DeploymentCreate(
                name=view.free_name(db, workspace_id, found.name),
                model=found.id,
                idle_minutes=IDLE_MINUTES,
            ),
            host=None if allowed == "start" else carrier(db, workspace_id, found),
        )
        made.idled_at = now()  # as if it slept: who calls waits until it is ready
        log.info("deployed by a call", deployment=made.id, model=found.id)


def carrier(db: Session, workspace_id: str, model: Model) -> Deployment:
    """Engines of its base that can carry it. Raises Conflict with the reason if there are none."""
    refusal = None
    if model.kind == "adapter":
        base = db.get_one(Model, model.base_id)
        found = guests.place(db, workspace_id, model, base)
        if found.host:
            return found.host
        refusal = found.refusal
    message, params = refusal or (NO_ENGINE, {})
    raise Conflict(
        N_("%(name)s is not deployed and cannot be loaded. %(why)s Deploy it first."),
        code="model_not_deployed",
        field="model",
        name=model.name,
        why={"message": message, "params": params},
    )


NO_ENGINE = N_("No engine of its base runs that could carry it.")
