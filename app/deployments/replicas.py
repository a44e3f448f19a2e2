"""What nodes do with replicas: the engines that make a deployment true.

Each call names a fence; a stale one changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.cluster.tables import Lease
from app.db import now
from app.deployments import phases, revisions, rolling, room
from app.deployments.states import ACTIVE, LONG_RUN, note, switch_replica
from app.deployments.tables import Deployment, Replica, ReplicaLog
from app.deployments.wanted import START, SWEEP, advance
from app.models.tables import Model
from app.queue import node_queue, send

LOG_KEPT = 4 * 2**20  # bytes of log kept of one start
STARTS_KEPT = 3


# -- starting ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplicaFacts:
    """All that a node needs to start an engine. Artefacts are ids, to be fetched."""

    replica_id: str
    fence: int
    name: str  # the model name at /v1
    engine: str  # auto, vllm or transformers
    model: str  # artefact of a whole model
    adapter: str | None  # artefact of the adapter to serve on it
    rank: int  # of adapters, at most, as vLLM takes it; 0 where it carries none
    parameters: int  # of the whole model
    max_model_len: int
    cache_bytes: int
    devices: list[str]  # cpu:0, cuda:3
    share: float  # of each device's memory
    quantization: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)  # of the engine, see options.py
    adapters: int = 0  # that can be loaded while it runs
    at_once: int = 1  # adapters in one step


def grant(db: Session, replica_id: str, node_id: str) -> bool:
    """The scheduler gave the replica devices on `node_id`: pending → scheduled, a new fence.

    In the transaction of `cluster.decide`. One that no longer waits gives them back.
    """
    replica = db.get(Replica, replica_id)
    deployment = db.get(
        Deployment, replica.deployment_id if replica else "", with_for_update=True,
        populate_existing=True,
    )  # fmt: skip
    if replica is None or deployment is None:
        cluster.release(db, "replica", replica_id)
        return False
    db.refresh(replica)
    if replica.state != "pending" or deployment.desired != "running":
        if replica.state not in ACTIVE:
            cluster.release(db, "replica", replica_id)
        return False
    replica.fence += 1
    replica.node_id = node_id
    replica.pid = replica.pid_started = replica.started_at = replica.ready_at = None
    replica.memory = replica.retry_at = replica.error = None
    replica.address = replica.secret = replica.engine = replica.phase = replica.reason = ""
    replica.strikes, replica.phases, replica.progress = 0, {}, None
    switch_replica(db, deployment, replica, "scheduled")
    send(db, START, replica.id, replica.fence, queue=node_queue(node_id))
    return True


def start_facts(db: Session, replica_id: str, fence: int) -> ReplicaFacts | None:
    """None if there is nothing to start: another fence, no longer wanted, or started already."""
    replica = db.get(Replica, replica_id, populate_existing=True)
    if (
        replica is None
        or replica.fence != fence
        or replica.state != "scheduled"
        or replica.pid is not None
    ):
        return None
    deployment = db.get_one(Deployment, replica.deployment_id)
    model = db.get_one(Model, deployment.served_model_id)
    adapter = model if model.kind == "adapter" else None
    base = db.get_one(Model, model.base_id) if adapter else model
    leases = cluster.leases_of(db, "replica", replica.id)
    settings = revisions.settings_of(db, deployment, replica.revision)
    return ReplicaFacts(
        replica_id=replica.id,
        fence=fence,
        name=deployment.name,
        engine=settings.engine,
        model=base.artefact,
        adapter=adapter.artefact if adapter else None,
        rank=max(deployment.adapter_rank, room.rank_of(adapter) if adapter else 0),
        parameters=base.parameters,
        max_model_len=settings.max_model_len,
        cache_bytes=room.cache_beside(base, settings, deployment.adapters, deployment.adapter_rank),
        quantization=settings.quantization,
        arguments=settings.arguments,
        devices=[lease.device.name for lease in leases],
        share=min((share_of(lease) for lease in leases), default=1.0),
        adapters=deployment.adapters,
        at_once=room.at_once(base, deployment.adapters, deployment.adapter_rank),
    )


def devices_of(db: Session, replica_id: str) -> list[str]:
    """The names of the devices it holds: cpu:0, cuda:3."""
    return [lease.device.name for lease in cluster.leases_of(db, "replica", replica_id)]


def share_of(lease: Lease) -> float:
    return lease.bytes / lease.device.memory if lease.device.memory else 1.0


def mark_started(
    db: Session,
    replica_id: str,
    fence: int,
    *,
    pid: int,
    pid_started: float,
    address: str,
    secret: str,
    engine: str,
) -> bool:
    """The process is there. False when fenced out: stop it. One that was asked to stop
    meanwhile keeps its state, so that the node stops it in the ordinary way.
    """
    found = held(db, replica_id, fence)
    if found is None:
        return False
    deployment, replica = found
    replica.pid, replica.pid_started, replica.started_at = pid, pid_started, now()
    replica.address, replica.secret, replica.engine = address, secret, engine
    enter(replica, "start")
    if replica.state == "scheduled":
        switch_replica(db, deployment, replica, "starting")
    return True


# -- while it runs -----------------------------------------------------------------------


def mark(
    db: Session,
    replica_id: str,
    fence: int,
    *,
    state: str | None = None,
    phase: str | None = None,
    progress: int | None = None,
    strikes: int | None = None,
    memory: int | None = None,
) -> bool:
    """What the node saw. False when fenced out, or when the state no longer allows it."""
    found = held(db, replica_id, fence)
    if found is None or (state and found[1].state == "stopping"):
        return False
    deployment, replica = found
    if phase is not None:
        enter(replica, phase)
    if progress is not None:
        replica.progress = progress
    if strikes is not None:
        replica.strikes = strikes
    if memory is not None:
        replica.memory = memory
    if state == "ready" and replica.started_at:
        if replica.state == "starting":
            replica.took = phases.took(replica.phases, now())
        seconds = round((now() - replica.started_at).total_seconds(), 1)
        switch_replica(db, deployment, replica, state, seconds=seconds)
        rolling.answered(db, deployment, replica)
        if deployment.previous is not None:
            send(db, SWEEP)  # the old revision may leave
    elif state:
        switch_replica(db, deployment, replica, state, strikes=replica.strikes)
    return True


def enter(replica: Replica, phase: str) -> None:
    """The start goes on to `phase`, or out of the last."""
    if phase and phase != replica.phase:
        replica.phases = replica.phases | {phase: now().isoformat()}
        replica.progress = None
    replica.phase = phase


def ship_log(db: Session, replica_id: str, fence: int, offset: int, data: bytes) -> bool:
    """Store a piece of an engine's log; the same piece twice is once. Old pieces go."""
    if db.scalar(select(Replica.fence).where(Replica.id == replica_id)) != fence:
        return False
    row = {"replica_id": replica_id, "fence": fence, "offset": offset, "data": data}
    db.execute(insert(ReplicaLog).values(**row).on_conflict_do_nothing())
    db.execute(
        delete(ReplicaLog).where(
            ReplicaLog.replica_id == replica_id,
            or_(
                ReplicaLog.fence <= fence - STARTS_KEPT,
                (ReplicaLog.fence == fence) & (ReplicaLog.offset < offset - LOG_KEPT),
            ),
        )
    )
    return True


# -- the end -----------------------------------------------------------------------------


def end(db: Session, replica_id: str, fence: int, error: dict[str, Any] | None = None) -> bool:
    """Its processes are gone: give the devices back and say what comes next.

    `error` is {code, message, params, advice, permanent}: tried again after a pause that
    doubles, 10 s to 300 s, unless `permanent`. Without an error it was asked to leave (stop,
    or the node is being taken down): it starts again if it is still wanted.
    False when fenced out.
    """
    cluster.lock(db)
    found = held(db, replica_id, fence)
    if found is None:
        return False
    deployment, replica = found
    cluster.release(db, "replica", replica.id)
    send(db, SWEEP)  # somebody may wait for what it held, or for it to start again
    rolling.renew(db, deployment)
    long_run = replica.ready_at is not None and now() - replica.ready_at > LONG_RUN
    replica.pid = replica.pid_started = replica.ready_at = replica.memory = None
    replica.address = replica.secret = replica.phase = ""
    if deployment.desired != "running":
        switch_replica(db, deployment, replica, "stopped")
        advance(db, deployment)
        return True
    if not rolling.wanted(deployment, replica):
        leave(db, deployment, replica)
        return True
    if error and error.get("code") == "no_lora":
        error = room.give_up(deployment, error)
    if error:
        replica.failures = 1 if long_run else replica.failures + 1
        replica.error = error
        note(db, deployment, "error", error["message"], error.get("params") or {}, replica.id)
        if rolling.failed(db, deployment, replica, error):
            leave(db, deployment, replica)
            return True
    if error and error.get("permanent"):
        switch_replica(db, deployment, replica, "error")
        return True
    if error:
        replica.retry_at = now() + pause(replica.failures)
    switch_replica(db, deployment, replica, "pending")
    return True


def leave(db: Session, deployment: Deployment, replica: Replica) -> None:
    """One that is not wanted any more, and whose processes are gone, is done with."""
    if replica.state != "stopping":
        switch_replica(db, deployment, replica, "stopping")
    switch_replica(db, deployment, replica, "stopped")
    advance(db, deployment)


def pause(failures: int) -> timedelta:
    """How long to wait after so many failures in a row."""
    return timedelta(seconds=min(10 * 2 ** (min(failures, 10) - 1), 300))


# -- finding -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """An engine that the node may have, or must start or stop, as its row says."""

    id: str
    fence: int
    state: str
    name: str
    engine: str
    phase: str
    pid: int | None
    pid_started: float | None
    address: str
    secret: str
    started_at: datetime | None
    strikes: int
    progress: int | None
    drain_until: datetime | None
    shipped: int  # bytes of its log that are stored


def active_on(db: Session, node_id: str) -> list[Running]:
    return find(db, Replica.node_id == node_id)


def running(db: Session, replica_id: str, fence: int) -> Running | None:
    """One of them as its row says now: looked at again before anything is signalled."""
    found = find(db, Replica.id == replica_id, Replica.fence == fence)
    return found[0] if found else None


def find(db: Session, *conditions: Any) -> list[Running]:
    shipped = (
        select(ReplicaLog.offset + func.octet_length(ReplicaLog.data))
        .where(ReplicaLog.replica_id == Replica.id, ReplicaLog.fence == Replica.fence)
        .order_by(ReplicaLog.offset.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows: Sequence[Any] = db.execute(
        select(
            Replica.id,
            Replica.fence,
            Replica.state,
            Deployment.name,
            Replica.engine,
            Replica.phase,
            Replica.pid,
            Replica.pid_started,
            Replica.address,
            Replica.secret,
            Replica.started_at,
            Replica.strikes,
            Replica.progress,
            Replica.drain_until,
            func.coalesce(shipped, 0),
        )
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .where(Replica.state.in_(ACTIVE), *conditions)
        .order_by(Replica.id)
    ).all()
    return [Running(*row) for row in rows]


def held(db: Session, replica_id: str, fence: int) -> tuple[Deployment, Replica] | None:
    """The replica and its locked deployment, if `fence` may still write to it."""
    replica = db.get(Replica, replica_id)
    if replica is None:
        return None
    deployment = db.get_one(
        Deployment, replica.deployment_id, with_for_update=True, populate_existing=True
    )
    db.refresh(replica)
    if replica.fence != fence or replica.state not in ACTIVE:
        return None
    return deployment, replica
