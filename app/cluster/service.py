"""Who may hold which device: requests, leases and the decision. Knows owners, not jobs."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session, joinedload

from app.cluster import metering
from app.cluster.placement import QUOTA, Slot, place, refuse_impossible
from app.cluster.tables import Device, Lease, Node, Request
from app.config import settings
from app.db import now
from app.quotas import service as quotas

SILENT = timedelta(seconds=150)  # a node unheard of for so long is unreachable
LOCK = 7_238_001  # the advisory lock under which leases change
LOW, NORMAL, HIGH, URGENT = range(4)


@dataclass(frozen=True)
class Place:
    """In the queue: what somebody who must wait again takes along."""

    since: datetime
    preemptions: int = 0


@dataclass(frozen=True)
class Grant:
    """A request that just got its devices."""

    owner_kind: str
    owner_id: str
    node_id: str
    devices: list[Device]
    leases: list[Lease]


def lock(db: Session) -> None:
    """Everything that grants or gives back waits here, until the transaction's end.

    Taken before any row of a job, a replica or a deployment is locked, so that nobody
    waits in a circle.
    """
    db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


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
    priority: int = NORMAL,
    preemptible: bool = False,
    seconds: float | None = None,
    place: Place | None = None,
) -> Request:
    """Ask for `devices` on one node: whole ones, or `memory` bytes on each. Asking twice is once.

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
        priority=priority,
        preemptible=preemptible,
        seconds=seconds,
        created_at=place.since if place else now(),
        preemptions=place.preemptions if place else 0,
    )
    known = db.scalars(
        select(Device)
        .join(Node)
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


# -- deciding ----------------------------------------------------------------------------


def decide(db: Session) -> list[Grant]:
    """Grant what can be granted, and give every request that waits its reason.

    Quota and devices in one transaction, one decision at a time. Of the waiting, the
    workspace that holds least comes first, then priority, then age; one that must wait
    does not hold up the next.
    """
    lock(db)
    requests = list(
        db.scalars(
            select(Request)
            .where(Request.granted_at.is_(None))
            .order_by(Request.created_at, Request.id)
            .execution_options(populate_existing=True)
        )
    )
    if not requests:
        return []
    leases: list[Lease] = list(db.scalars(held()))
    holding = Counter(lease.workspace_id for lease in leases)
    limits = quotas.limits(db)
    slots = open_slots(db, leases)
    grants = []
    while requests:
        request = min(  # stable: of equals, the oldest
            requests, key=lambda one: (holding[one.workspace_id], -one.priority)
        )
        requests.remove(request)
        most = limits.get(request.workspace_id)
        if most is not None and holding[request.workspace_id] + request.devices > most:
            request.reason = QUOTA
            continue
        chosen = place(slots, request)
        if isinstance(chosen, str):
            request.reason = chosen
            continue
        grants.append(grant(db, request, chosen))
        holding[request.workspace_id] += request.devices
    db.flush()
    return grants


def open_slots(db: Session, leases: list[Lease]) -> list[Slot]:
    """Healthy devices of nodes that are alive, reachable and not cordoned."""
    devices = db.scalars(
        select(Device)
        .join(Node)
        .where(
            Device.healthy,
            Node.dead_at.is_(None),
            Node.cordoned.is_(False),
            Node.seen_at > now() - SILENT,
        )
        .order_by(Device.node_id, Device.name)
        .execution_options(populate_existing=True)
    )
    slots = {device.id: Slot(device, used=device.taken) for device in devices}
    for lease in leases:
        if slot := slots.get(lease.device_id):
            slot.used += lease.bytes
            slot.holders += 1
            slot.whole = slot.whole or lease.exclusive
    return list(slots.values())


def grant(db: Session, request: Request, slots: list[Slot]) -> Grant:
    request.granted_at = now()
    request.reason = ""
    leases = [
        Lease(
            device_id=slot.device.id,
            node_id=slot.device.node_id,
            workspace_id=request.workspace_id,
            user_id=request.user_id,
            owner_kind=request.owner_kind,
            owner_id=request.owner_id,
            bytes=slot.take(request.memory),
            exclusive=request.memory is None,
            created_at=request.granted_at,
        )
        for slot in slots
    ]
    db.add_all(leases)
    return Grant(
        request.owner_kind,
        request.owner_id,
        slots[0].device.node_id,
        [slot.device for slot in slots],
        leases,
    )


# -- nodes -------------------------------------------------------------------------------


def unreachable(node: Node) -> bool:
    """Unheard of for 150 s. It gets nothing new; what it runs may well go on."""
    return node.seen_at <= now() - SILENT


def usable(db: Session, node_id: str | None) -> bool:
    """Whether a node may be expected to take work again: known, not dead, not cordoned."""
    node = db.get(Node, node_id) if node_id else None
    return node is not None and node.dead_at is None and not node.cordoned


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
