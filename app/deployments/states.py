"""The states of deployments and replicas, and the two functions that change them.

Whoever calls them has locked the deployment's row: that one lock covers its replicas too.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from app.db import now
from app.deployments.tables import Deployment, DeploymentEvent, Replica
from app.errors import N_, Conflict

MOVES: dict[str, set[str]] = {
    "pending": {"starting", "ready", "stopping", "stopped", "idle", "error"},
    "starting": {"pending", "ready", "unhealthy", "stopping", "stopped", "idle", "error"},
    "ready": {"pending", "starting", "unhealthy", "stopping", "stopped", "idle", "error"},
    "unhealthy": {"pending", "starting", "ready", "stopping", "stopped", "idle", "error"},
    "stopping": {"pending", "starting", "stopped", "idle", "error"},
    "stopped": {"pending"},
    "idle": {"pending", "stopped"},
    "error": {"pending", "starting", "ready", "stopping", "stopped", "idle"},
}
REPLICA_MOVES: dict[str, set[str]] = {
    "pending": {"scheduled", "stopped", "error"},
    "scheduled": {"starting", "pending", "stopping", "error"},
    "starting": {"ready", "pending", "stopping", "error"},
    "ready": {"unhealthy", "pending", "stopping", "error"},
    "unhealthy": {"ready", "pending", "stopping", "error"},
    "stopping": {"stopped", "pending"},
    "stopped": {"pending"},
    "error": {"pending", "stopped"},
}
ACTIVE = ("scheduled", "starting", "ready", "unhealthy", "stopping")  # a node may have processes

MESSAGES = {
    "pending": N_("Waiting."),
    "starting": N_("The engine is starting."),
    "ready": N_("Ready: it answers requests."),
    "unhealthy": N_("The engine does not answer."),
    "stopping": N_("Stopping."),
    "stopped": N_("Stopped. Its devices are free again."),
    "idle": N_("Asleep. Its devices are free; the next request wakes it."),
    "error": N_("It does not start."),
}
REPLICA_MESSAGES = {
    "pending": N_("Replica %(index)s waits for a device."),
    "scheduled": N_("Replica %(index)s got its device on node %(node)s."),
    "starting": N_("Replica %(index)s: %(engine)s started on node %(node)s."),
    "ready": N_("Replica %(index)s is ready after %(seconds)s s."),
    "unhealthy": N_("Replica %(index)s did not answer %(strikes)s health checks in a row."),
    "stopping": N_("Replica %(index)s was asked to stop."),
    "stopped": N_("Replica %(index)s stopped."),
    "error": N_("Replica %(index)s does not start, and trying again would not help."),
}
LONG_RUN = timedelta(minutes=5)  # ready for so long forgives earlier failures


def switch(db: Session, deployment: Deployment, state: str, reason: str = "") -> None:
    """Move `deployment` and write the event; a new reason for the same state is an event too.

    Raises Conflict for a move that is none.
    """
    old = deployment.state
    if (state, reason) == (old, deployment.reason):
        return
    if state != old and state not in MOVES[old]:
        raise Conflict(
            N_("A deployment that is %(old)s cannot become %(new)s."), old=old, new=state
        )
    deployment.state, deployment.reason = state, reason
    if state == "ready" and deployment.ready_at is None:
        deployment.ready_at = now()
    if state in ("pending", "stopped", "idle", "error"):
        deployment.ready_at = None
    if state == "ready":
        deployment.idled_at = None
    note(db, deployment, "state", MESSAGES[state], {"old": old, "new": state, "reason": reason})


def switch_replica(
    db: Session, deployment: Deployment, replica: Replica, state: str, **params: Any
) -> None:
    """Move one replica, write the event, and let the deployment's state follow."""
    old = replica.state
    if state == old:
        return
    if state not in REPLICA_MOVES[old]:
        raise Conflict(N_("A replica that is %(old)s cannot become %(new)s."), old=old, new=state)
    replica.state = state
    if state == "ready":
        replica.ready_at = replica.ready_at or now()
        replica.error, replica.strikes = None, 0
    if state in ("pending", "stopped"):
        replica.drain_until = None
    shown = {"index": replica.index + 1, "node": replica.node_id or "", "engine": replica.engine}
    note(
        db,
        deployment,
        "replica",
        REPLICA_MESSAGES[state],
        shown | {"old": old, "new": state} | params,
        replica.id,
    )
    db.flush()
    settle(db, deployment)


def settle(db: Session, deployment: Deployment) -> None:
    """Derive the deployment's state from what is wanted and what its replicas are."""
    replicas = replicas_of(db, deployment.id)
    states = {replica.state for replica in replicas}
    if deployment.desired != "running":
        switch(db, deployment, "stopping" if states & set(ACTIVE) else deployment.desired)
    elif "ready" in states:
        switch(db, deployment, "ready")
    elif "unhealthy" in states:
        switch(db, deployment, "unhealthy")
    elif states & {"starting", "scheduled"}:
        switch(db, deployment, "starting")
    elif "stopping" in states:
        switch(db, deployment, "stopping")
    elif deployment.error:
        switch(db, deployment, "error", str(deployment.error.get("code", "")))
    elif failed := next((one for one in replicas if one.error), None):
        assert failed.error is not None
        switch(db, deployment, "error", str(failed.error.get("code", "")))
    else:
        waiting = next((one.reason for one in replicas if one.reason), "")
        merging = deployment.served_model_id is None and deployment.merge_job_id is not None
        switch(db, deployment, "pending", "merging" if merging else waiting)


def replicas_of(db: Session, deployment_id: str) -> list[Replica]:
    """Those that shall run, or still do; not what is left of earlier revisions."""
    return list(db.scalars(living().where(Replica.deployment_id == deployment_id)))


def living() -> Select[Any]:
    """The select of the replicas of deployments that shall run, or still do."""
    wanted = (Replica.revision == Deployment.revision) & (Replica.index < Deployment.replicas)
    return (
        select(Replica)
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .where(or_(wanted, Replica.state != "stopped"))
        .order_by(Replica.revision, Replica.index)
    )


def note(
    db: Session,
    deployment: Deployment,
    kind: str,
    message: str,
    params: dict[str, Any],
    replica_id: str | None = None,
) -> None:
    """An event of the deployment. `message` is a msgid."""
    db.add(
        DeploymentEvent(
            deployment_id=deployment.id,
            replica_id=replica_id,
            kind=kind,
            message=message,
            params=params,
        )
    )
    db.flush()
