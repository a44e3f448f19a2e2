"""A deployment in DashScope's words: its name is the model name to call, its capacity the replicas."""

import re
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.deployments import editing, service
from app.deployments.answers import trouble
from app.deployments.schemas import DeploymentCreate as Ours
from app.deployments.tables import Deployment, Replica
from app.errors import N_, Conflict, Invalid, NotFound
from app.gateway.dashscope.replies import moment
from app.gateway.dashscope.schemas import DeploymentCreate
from app.gateway.tuning import names
from app.models.tables import Model

STATES = {
    "pending": "PENDING",
    "starting": "DEPLOYING",
    "ready": "RUNNING",
    "unhealthy": "DEPLOYING",
    "stopping": "UPDATING",
    "stopped": "STOPPED",
    "idle": "RUNNING",  # a call wakes it: only what is RUNNING is callable
    "error": "FAILED",
}
LONGEST = 63  # characters of a deployment's name
TAKEN = N_("Deployed model %(name)s already exists, please specify a suffix.")


def create(db: Session, who: Principal, body: DeploymentCreate) -> Deployment:
    """Raises NotFound (model), Conflict (name taken), Invalid."""
    if body.rpm_limit is not None or body.tpm_limit is not None:
        raise limits()
    model = names.model(db, who, body.model_name)
    name = name_of(model.name, body.suffix or "")
    try:
        shared = body.plan == "lora" and body.capacity == 1  # on its base's engine, if one runs
        ours = Ours(
            name=name,
            model=model.id,
            replicas=body.capacity,
            max_model_len=body.max_context_length,
            own_engine=model.kind == "adapter" and not shared,
        )
        return service.create(db, who, ours)
    except Conflict as error:
        if error.code != "name_taken":
            raise
        raise Conflict(TAKEN, name=name) from None


def name_of(model: str, suffix: str) -> str:
    """`model-suffix`, in letters that a deployment's name may have."""
    tail = f"-{suffix}" if suffix else ""
    plain = re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._") or "model"
    return plain[: LONGEST - len(tail)] + tail


def named(db: Session, who: Principal, name: str) -> Deployment:
    """Raises NotFound, also for another workspace's."""
    found = db.scalar(
        select(Deployment).where(
            Deployment.workspace_id == who.workspace_id,
            Deployment.name == name,
            Deployment.deleted_at.is_(None),
        )
    )
    if found is None:
        raise NotFound(N_("Deployed model %(name)s not found."), name=name[:100])
    return found


def page(db: Session, who: Principal, *, offset: int, limit: int) -> tuple[list[Deployment], int]:
    """The newest first, and how many there are."""
    mine = (Deployment.workspace_id == who.workspace_id, Deployment.deleted_at.is_(None))
    total = db.scalar(select(func.count()).select_from(Deployment).where(*mine)) or 0
    found, _ = service.list_deployments(db, who.workspace_id, offset=offset, limit=limit)
    return found, total


def scale(db: Session, who: Principal, name: str, capacity: int) -> Deployment:
    return editing.scale(db, who.workspace_id, named(db, who, name).id, capacity)


def limit(db: Session, who: Principal, name: str) -> None:
    """Raises Invalid: nothing here would obey such a limit, and it must not look as if."""
    named(db, who, name)
    raise limits()


def limits() -> Invalid:
    return Invalid(
        N_("Limits are set for API keys here, not for deployments: see the page of the key."),
        field="rpm_limit",
    )


def out(db: Session, found: list[Deployment]) -> list[dict[str, Any]]:
    replicas = service.replicas(db, found)
    return [one_out(db, one, replicas[one.id]) for one in found]


def one_out(db: Session, one: Deployment, replicas: list[Replica]) -> dict[str, Any]:
    model = db.get_one(Model, one.model_id)
    base = db.get_one(Model, model.base_id) if model.base_id else model
    shown = {
        "deployed_model": one.name,
        "status": STATES[one.state],
        "model_name": model.name,
        "base_model": base.name,
        "capacity": one.replicas,
        "base_capacity": 1,
        "ready_capacity": sum(replica.state == "ready" for replica in replicas),
        "plan": "lora" if one.mode == "adapter" else "mu",
        "charge_type": "post_paid",
        "workspace_id": one.workspace_id,
        "creator": one.created_by,
        "modifier": one.created_by,
        "gmt_create": moment(one.created_at),
        "gmt_modified": moment(one.ready_at or one.created_at),
    }
    error = trouble(one, replicas) if one.state == "error" else None
    return shown | ({"reason": str(error.get("code") or "")} if error else {})
