"""From one revision to the next without a gap: new replicas beside the old, which leave when the
new ones are ready; one by one where there is no room for both; back again when they do not start.

All of it is found in the rows at each look, so it may stop and go on anywhere.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.cluster.scheduling.decision import LIMITS
from app.db import now
from app.deployments import revisions
from app.deployments.states import note, switch_replica
from app.deployments.tables import Deployment, Replica, ReplicaLog
from app.errors import N_

DRAIN = timedelta(minutes=5)  # to finish the answers under way
TRIES = 3  # starts that a new revision gets
NO_ROOM = ("devices", "memory", *LIMITS)
KEPT = 8  # replicas of earlier revisions whose log can still be read


def step(db: Session, deployment: Deployment) -> list[Replica]:
    """The replicas that a locked deployment shall have, made where they lack. The others are
    asked to leave, as far as they can be spared.
    """
    found = list(
        db.scalars(
            select(Replica)
            .where(Replica.deployment_id == deployment.id)
            .order_by(Replica.revision, Replica.index)
        )
    )
    current = {
        one.index: one for one in found if one.revision == deployment.revision and not one.moved
    }
    for index in range(deployment.replicas):
        if index not in current:
            current[index] = Replica(
                deployment_id=deployment.id,
                revision=deployment.revision,
                index=index,
                state="pending",
            )
            db.add(current[index])
    db.flush()
    wanted = [current[index] for index in range(deployment.replicas)]
    others = [one for one in found if one not in wanted]
    come_through(db, deployment, wanted)
    leave(db, deployment, wanted, others)
    forget(db, [one for one in others if one.state == "stopped"])
    return wanted


def come_through(db: Session, deployment: Deployment, wanted: list[Replica]) -> None:
    """Note that the revision has taken the place of the one before."""
    if deployment.previous is not None and all(one.state == "ready" for one in wanted):
        deployment.previous = None
        message = N_("Revision %(revision)s runs now.")
        note(db, deployment, "revision", message, {"revision": deployment.revision})


def answered(db: Session, deployment: Deployment, replica: Replica) -> None:
    """A replica is ready: its revision has been seen to work."""
    revision = revisions.find(db, deployment, replica.revision)
    if revision and revision.ready_at is None:
        revision.ready_at = now()


def leave(
    db: Session, deployment: Deployment, wanted: list[Replica], others: list[Replica]
) -> None:
    """Ask those to leave that are no longer wanted. Of another revision, and of those that make
    way, those that answer stay until as many new ones do.
    """
    ready = sum(one.state == "ready" for one in wanted)
    serving = [
        one
        for one in others
        if one.state == "ready" and (one.moved or one.revision != deployment.revision)
    ]
    keep = serving[: max(0, deployment.replicas - ready)]
    spare = len(keep) + ready > 1 or len(wanted) == 1  # with one alone there is only a gap
    stopped = [one for one in keep if not one.moved]  # what a moved one has, nobody may take
    if stopped and spare and must_make_room(db, wanted, others):
        keep.remove(stopped[-1])
        note(
            db,
            deployment,
            "revision",
            N_("There is no room for both revisions: one replica of the old one stops first."),
            {},
        )
    for replica in others:
        if replica not in keep:
            let_go(db, deployment, replica)


def must_make_room(db: Session, wanted: list[Replica], others: list[Replica]) -> bool:
    """Whether new replicas wait for what only the old ones can give, and nothing is under way."""
    moving = any(one.state in ("scheduled", "starting") for one in wanted)
    if moving or any(one.state == "stopping" for one in others):
        return False
    waiting = [cluster.waiting(db, "replica", one.id) for one in wanted if one.state == "pending"]
    return any(request is not None and request.reason in NO_ROOM for request in waiting)


def let_go(db: Session, deployment: Deployment, replica: Replica) -> None:
    """It stops once it has answered what it is asked; at once if it answers nobody."""
    if replica.state in ("pending", "error"):
        cluster.withdraw(db, "replica", replica.id)
        replica.error = replica.retry_at = None
        replica.reason = ""
        switch_replica(db, deployment, replica, "stopped")
    elif replica.state not in ("stopping", "stopped"):
        if replica.state == "ready":
            replica.drain_until = now() + DRAIN
        switch_replica(db, deployment, replica, "stopping")


def forget(db: Session, stopped: list[Replica]) -> None:
    """The oldest of what is left of earlier revisions, with their logs."""
    gone = [one.id for one in stopped[:-KEPT]]
    if gone:
        db.execute(delete(ReplicaLog).where(ReplicaLog.replica_id.in_(gone)))
        db.execute(delete(Replica).where(Replica.id.in_(gone)))


def wanted(deployment: Deployment, replica: Replica) -> bool:
    here = replica.index < deployment.replicas and not replica.moved
    return here and replica.revision == deployment.revision


def failed(db: Session, deployment: Deployment, replica: Replica, error: dict[str, Any]) -> bool:
    """A start was lost. Whether the deployment has gone back to its previous revision for it."""
    if deployment.previous is None or not wanted(deployment, replica):
        return False
    if not error.get("permanent") and replica.failures < TRIES:
        return False
    go_back(db, deployment, error)
    return True


def go_back(db: Session, deployment: Deployment, error: dict[str, Any] | None = None) -> None:
    """To the revision before, which is still there or starts again; `error` says why."""
    assert deployment.previous is not None
    number, before = deployment.revision, deployment.previous
    if error:
        revisions.get(db, deployment, number).error = error
        note(
            db,
            deployment,
            "revision",
            N_("Revision %(revision)s did not start: %(why)s Back to revision %(before)s."),
            {
                "revision": number,
                "before": before,
                "why": {"message": error["message"], "params": error.get("params") or {}},
            },
        )
    else:
        note(
            db,
            deployment,
            "revision",
            N_("The change to revision %(revision)s was called off: back to revision %(before)s."),
            {"revision": number, "before": before},
        )
    settings = revisions.settings_of(db, deployment, before)
    revisions.apply(deployment, before, settings)
    deployment.previous = None
    db.flush()


def renew(db: Session, deployment: Deployment) -> None:
    """Devices were given back: what waits is looked at anew before more is stopped for it."""
    for replica in db.scalars(
        select(Replica).where(Replica.deployment_id == deployment.id, Replica.state == "pending")
    ):
        replica.reason = ""
        if request := cluster.waiting(db, "replica", replica.id):
            request.reason = "new"
