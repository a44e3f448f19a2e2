"""Sleep: a deployment that nobody asks gives its devices back; the next request wakes it.

What counts as a request stands in the rows: the gateway touches `last_used_at` when it looks a
name up and while an answer is under way, so any number of gateways agree, and none can be
overlooked: a look-up that comes too late for the sweep finds the deployment asleep.
"""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.deployments import guests, service
from app.deployments.states import note
from app.deployments.tables import Deployment, Replica
from app.deployments.wanted import SWEEP, advance, lock, stop_all
from app.errors import N_, Conflict
from app.queue import send

TOUCHED = timedelta(seconds=10)  # so exact is `last_used_at` of a deployment in use
MARGIN = timedelta(seconds=20)  # waited beyond the setting, for what is touched late


# -- in use ------------------------------------------------------------------------------


def touch(db: Session, ids: Collection[str]) -> bool:
    """Deployments, and those of replicas, are asked for just now. Whether a row was written:
    at most every ten seconds for each.
    """
    at = func.now()  # the database's clock, as gateways may stand on several machines
    stale = (
        select(Deployment.id)
        .where(
            or_(
                Deployment.id.in_(ids),
                Deployment.id.in_(select(Replica.deployment_id).where(Replica.id.in_(ids))),
            ),
            or_(Deployment.last_used_at.is_(None), Deployment.last_used_at < at - TOUCHED),
        )
        .order_by(Deployment.id)  # as the sweep locks them
        .with_for_update()
    )
    changed = db.execute(
        update(Deployment)
        .where(Deployment.id.in_(stale))
        .values(last_used_at=at)
        .returning(Deployment.id)
        .execution_options(synchronize_session=False)
    )
    return bool(changed.all())


# -- to sleep ----------------------------------------------------------------------------


def rest(db: Session) -> None:
    """Put to sleep what has had no request for as long as its setting says."""
    cluster.lock(db)
    used = func.greatest(Deployment.last_used_at, Deployment.ready_at)
    allowed = func.make_interval(0, 0, 0, 0, 0, Deployment.idle_minutes)
    for deployment in db.scalars(
        select(Deployment)
        .where(
            Deployment.idle_minutes.is_not(None),
            Deployment.desired == "running",
            Deployment.state == "ready",
            used + allowed < func.now() - MARGIN,
        )
        .order_by(Deployment.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ):
        note(
            db,
            deployment,
            "idle",
            N_("No request for %(minutes)s minutes: it goes to sleep."),
            {"minutes": deployment.idle_minutes},
        )
        stop_all(db, deployment, "idle")


def sleep(db: Session, workspace_id: str, deployment_id: str) -> Deployment:
    """Put it to sleep now. Twice is once. Raises Conflict if it is stopped."""
    deployment = lock(db, service.get(db, workspace_id, deployment_id).id)
    if deployment.desired == "stopped":
        raise Conflict(N_("It is stopped: start it first."), code="deployment_stopped")
    if deployment.desired == "running":
        note(db, deployment, "idle", N_("It was put to sleep."), {})
        stop_all(db, deployment, "idle")
    return deployment


# -- awake -------------------------------------------------------------------------------


def wake(db: Session, deployment_id: str) -> bool:
    """A request asks for it: run again, at once. False if it does not sleep."""
    deployment = lock(db, deployment_id)
    if deployment.host_id and deployment.state == "idle" and deployment.deleted_at is None:
        wake(db, deployment.host_id)
        guests.ask(db, deployment)
        return True
    if deployment.desired != "idle" or deployment.deleted_at is not None:
        return False
    deployment.desired = "running"
    note(db, deployment, "idle", N_("A request woke it."), {})
    advance(db, deployment)
    send(db, SWEEP)
    return True


def change(db: Session, workspace_id: str, deployment_id: str, minutes: int | None) -> Deployment:
    """After how many minutes without a request it sleeps; None: never by itself."""
    deployment = lock(db, service.get(db, workspace_id, deployment_id).id)
    if deployment.idle_minutes == minutes:
        return deployment
    deployment.idle_minutes = minutes
    if minutes is None:
        note(db, deployment, "idle", N_("It no longer goes to sleep by itself."), {})
    else:
        note(
            db,
            deployment,
            "idle",
            N_("It sleeps after %(minutes)s minutes without a request."),
            {"minutes": minutes},
        )
    return deployment
