"""Who may hold which device: requests, leases and the decision. Knows owners, not jobs."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, contains_eager, joinedload

from app.cluster import fair, metering
from app.cluster.deciding import SILENT, Grant, Told, decide, foresee, lock, told
from app.cluster.placement import refuse_impossible
from app.cluster.scheduling.order import HIGH, LOW, NORMAL, URGENT
from app.cluster.tables import Device, Lease, Node, Request
from app.config import settings
from app.db import now
from app.quotas import service as quotas

__all__ = [
    "HIGH",
    "LOW",
    "NORMAL",
    "SILENT",
    "URGENT",
    "Grant",
    "Told",
    "decide",
    "foresee",
    "lock",
    "told",
]

MAINTENANCE = "maintenance"  # of the whole platform: why it waits


@dataclass(frozen=True)
class Place:
    """In the queue: what somebody who must wait again takes along."""

    since: datetime
    preemptions: int = 0


# -- asking and giving back --------------------------------------------------------------


def ask(
    db: Session,
    *,
    owner_kind: str,
    owner_id: str,
    workspace_id: str,
    devices: int,
    user_id: str | None = None,
    memory: int | None = None,
    kind: str | None = None,
    model: str | None = None,
    node_id: str | None = None,
    labels: dict[str, str] | None = None,
    priority: int = NORMAL,
    preemptible: bool = False,
    seconds: float | None = None,
    place: Place | None = None,
) -> Request:
    """Ask for `devices` on one node that has the `labels`: whole ones, or `memory` bytes on each.
    Asking twice is once.

    `seconds` is how long they will be held, by an estimate. `place` is the one that it had in the
    queue before, if it must wait again.

    Raises Invalid for what could never be granted, naming what could be.
    """
    if request := waiting(db, owner_kind, owner_id):
        return request
    request = Request(
        owner_kind=owner_kind,
        owner_id=owner_id,
        workspace_id=workspace_id,
        user_id=user_id,
        devices=devices,
        memory=memory,
        kind=kind,
        model=model,
        node_id=node_id,
        labels=labels or {},
        priority=priority,
        preemptible=preemptible,
        seconds=seconds,
        created_at=place.since if place else now(),
        preemptions=place.preemptions if place else 0,
    )
    known = db.scalars(
        select(Device)
        .join(Node)
        .options(contains_eager(Device.node))
        .where(Node.dead_at.is_(None), Device.retired.is_(False))
        .order_by(Device.memory.desc())
    )
    refuse_impossible(request, quotas.limit(db, workspace_id), list(known))
    db.add(request)
    db.flush()
    return request


def waiting(db: Session, owner_kind: str, owner_id: str) -> Request | None:
    """The owner's request: waiting, or granted already (`granted_at`)."""
    return db.scalar(
        select(Request)
        .where(Request.owner_kind == owner_kind, Request.owner_id == owner_id)
        .execution_options(populate_existing=True)
    )


def prioritise(db: Session, owner_kind: str, owner_id: str, priority: int) -> bool:
    """Whether the owner waits still, now with this priority. What was granted is left alone."""
    request = waiting(db, owner_kind, owner_id)
    if request is None or request.granted_at is not None:
        return False
    request.priority = priority
    return True


def withdraw(db: Session, owner_kind: str, owner_id: str) -> None:
    """Take back a request that was not granted. One that was is left alone: see `release`."""
    lock(db)
    db.execute(
        delete(Request).where(
            Request.owner_kind == owner_kind,
            Request.owner_id == owner_id,
            Request.granted_at.is_(None),
        )
    )


def release(db: Session, owner_kind: str, owner_id: str) -> None:
    """Give back all that the owner holds, write it to the ledger, and drop the request.

    Only when the processes are seen gone. Doing it twice is doing it once.
    """
    lock(db)
    at = now()
    leases = leases_of(db, owner_kind, owner_id)
    for lease in leases:
        lease.released_at = at
    metering.settle(db, leases, at)
    fair.add(db, leases, at)
    db.execute(
        delete(Request).where(Request.owner_kind == owner_kind, Request.owner_id == owner_id)
    )
    db.flush()


def leases_of(db: Session, owner_kind: str, owner_id: str) -> list[Lease]:
    """What the owner holds now, each with its `.device`."""
    return list(
        db.scalars(
            held()
            .where(Lease.owner_kind == owner_kind, Lease.owner_id == owner_id)
            .join(Device, Device.id == Lease.device_id)
            .order_by(Device.name)
        )
    )


def held() -> Any:
    """The select of all leases in force, each with its device."""
    return (
        select(Lease)
        .where(Lease.released_at.is_(None))
        .options(joinedload(Lease.device))
        .execution_options(populate_existing=True)
    )


# -- maintenance -------------------------------------------------------------------------


def rest(db: Session) -> None:
    """While the platform is maintained nothing is granted, and what waits says why."""
    waiting = (Request.granted_at.is_(None), Request.reason != MAINTENANCE)
    db.execute(update(Request).where(*waiting).values(reason=MAINTENANCE))


# -- nodes -------------------------------------------------------------------------------


def unreachable(node: Node) -> bool:
    """Unheard of for 150 s. It gets nothing new; what it runs may well go on."""
    return node.seen_at <= now() - SILENT


def usable(db: Session, node_id: str | None) -> bool:
    """Whether a node may be expected to take work again: known, not dead, not cordoned."""
    node = db.get(Node, node_id) if node_id else None
    return node is not None and node.dead_at is None and not node.cordoned


def models(db: Session) -> list[str]:
    """Of the devices of living nodes, as they call themselves."""
    found = (
        select(Device.model)
        .join(Node)
        .where(Node.dead_at.is_(None), Device.retired.is_(False), Device.model != "")
        .distinct()
        .order_by(Device.model)
    )
    return list(db.scalars(found))


def bury(db: Session) -> list[str]:
    """Declare dead the nodes silent for `DANLU_NODE_DEAD_AFTER` seconds (0: never).

    Time in which the database was away does not count. The caller ends what ran there.
    """
    if not settings.node_dead_after:
        return []
    started: datetime = db.execute(select(func.pg_postmaster_start_time())).scalar_one()
    limit = timedelta(seconds=settings.node_dead_after)
    if now() - started < limit:
        return []
    silent = db.scalars(
        select(Node)
        .where(Node.dead_at.is_(None), Node.seen_at < now() - limit)
        .with_for_update(skip_locked=True)
    ).all()
    for node in silent:
        node.dead_at = now()
    db.flush()
    return [node.id for node in silent]
