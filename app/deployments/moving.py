"""Leaving a node that is to be empty: each replica stays until another, elsewhere, has taken its
place, or until there is no more time.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.deployments import rolling
from app.deployments.states import ACTIVE, note
from app.deployments.tables import Deployment, Replica
from app.deployments.wanted import lock
from app.errors import N_

LEAVING = ("stopping", "stopped")


def make_way(db: Session, replica_id: str, *, late: bool) -> None:
    """Let another replica take this one's place; `late`: whether or not one could. Twice is once."""
    found = held(db, replica_id)
    if found is None:
        return
    deployment, replica = found
    if not replica.moved:
        replica.moved = True
        message = N_(
            "Node %(node)s is being emptied: another replica takes the place of %(index)s."
        )
        said(db, deployment, replica, message)
    elif late:
        message = N_("No other node could take replica %(index)s in time: it stops.")
        said(db, deployment, replica, message)
    if late:
        rolling.let_go(db, deployment, replica)


def stay(db: Session, node_id: str) -> None:
    """The node may be used again: what has no replacement yet stays where it is."""
    moved = select(Replica.id).where(Replica.node_id == node_id, Replica.moved)
    for replica_id in db.scalars(moved.where(Replica.state.in_(ACTIVE))).all():
        found = held(db, replica_id)
        if found is None:
            continue
        deployment, replica = found
        other = db.scalar(
            select(Replica).where(
                Replica.deployment_id == deployment.id,
                Replica.revision == replica.revision,
                Replica.index == replica.index,
                Replica.moved.is_(False),
            )
        )
        if replica.state != "ready" or (other and other.state == "ready"):
            continue
        if other:
            other.moved = True
            if other.state not in LEAVING:
                rolling.let_go(db, deployment, other)
            db.flush()
        replica.moved = False
        said(db, deployment, replica, N_("Replica %(index)s stays on node %(node)s."))


def held(db: Session, replica_id: str) -> tuple[Deployment, Replica] | None:
    """It, and its locked deployment; None if it is leaving anyway."""
    replica = db.get(Replica, replica_id)
    if replica is None:
        return None
    deployment = lock(db, replica.deployment_id)
    db.refresh(replica)
    if replica.state in LEAVING or replica.state not in ACTIVE:
        return None
    return deployment, replica


def said(db: Session, deployment: Deployment, replica: Replica, message: str) -> None:
    params = {"index": replica.index + 1, "node": replica.node_id or ""}
    note(db, deployment, "moving", message, params, replica.id)
