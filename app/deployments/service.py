"""What a person does with deployments, and what the gateway asks.

What nodes do stands in `replicas`, what the sweep does in `wanted`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.cluster import service as cluster
from app.cluster.tables import Device, Lease
from app.db import new_id, now
from app.deployments import aliases, fitting, guests, revisions, runners
from app.deployments.checks import check_count, check_money, check_name, check_quota
from app.deployments.plans import find_host, merge, plan
from app.deployments.schemas import DeploymentCreate
from app.deployments.states import living, note, replicas_of
from app.deployments.tables import Deployment, DeploymentEvent, Replica, ReplicaLog
from app.deployments.wanted import SWEEP, advance, lock, stop_all
from app.errors import N_, NotFound
from app.jobs import priorities
from app.models import service as models
from app.models.tables import Model
from app.queue import send

# -- starting ----------------------------------------------------------------------------


def create(
    db: Session, who: Principal, data: DeploymentCreate, host: Deployment | None = None
) -> Deployment:
    """Start serving a model: the deployment, its replicas and what they ask for, at once.

    An adapter becomes a guest of a deployment that can carry it: of `host`, if one is given.

    Raises NotFound (model), Conflict (name taken), Invalid (cannot be served so, or no such
    devices will ever be free).
    """
    found = plan(
        db,
        who.workspace_id,
        data.model,
        engine=data.engine,
        mode=data.mode,
        max_model_len=data.max_model_len,
        devices=data.devices,
        memory=data.memory,
        exclusive=data.exclusive,
        quantization=data.quantization,
        arguments=data.arguments,
        replicas=data.replicas,
        adapters=data.adapters,
        own_engine=data.own_engine or bool(data.labels),
        host=host,
    )
    if data.replicas > 1:
        check_quota(db, who.workspace_id, data.replicas * data.devices)
    if refusal := fitting.fit(db, who.workspace_id, found).refusal:
        raise refusal
    cluster.lock(db)  # one creation at a time: two of one name meet here
    check_name(db, who.workspace_id, data.name)
    check_count(db, who.workspace_id, who.user_id)
    check_money(db, who.workspace_id, who.user_id)
    deployment = Deployment(
        id=new_id("dep"),
        workspace_id=who.workspace_id,
        created_by=who.user_id,
        name=data.name,
        model_id=found.model.id,
        mode=found.mode,
        replicas=data.replicas,
        labels=data.labels,
        priority=priorities.check(db, who, data.priority),
        idle_minutes=data.idle_minutes,
        adapters=found.room.adapters,
        adapter_rank=found.room.rank,
        state="pending",
        **vars(found.settings),
    )
    if found.place.host:
        guests.check_host(db, found.place.host.id)
        guests.attach(deployment, found.place)
    if found.mode != "merged":
        deployment.served_model_id = found.model.id
    db.add(deployment)
    db.flush()
    revisions.add(db, deployment, found.settings, who.user_id)
    models.pin(db, found.model.id, "deployment", deployment.id, deployment.name)
    note(
        db,
        deployment,
        "created",
        N_("Created for %(model)s."),
        {"model": found.model.name},
    )
    if found.forced:
        note(
            db,
            deployment,
            "warning",
            N_("Only the transformers engine runs here. It cannot serve adapters: merging first."),
            {},
        )
    if found.mode == "merged":
        merge(db, deployment)
    advance(db, deployment, refuse=True)
    send(db, SWEEP)
    return deployment


# -- looking -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, deployment_id: str) -> Deployment:
    deployment = db.get(Deployment, deployment_id)
    if (
        deployment is None
        or deployment.workspace_id != workspace_id
        or deployment.deleted_at is not None
    ):
        raise NotFound(N_("There is no such deployment."))
    return deployment


def list_deployments(
    db: Session,
    workspace_id: str,
    *,
    model_id: str | None = None,
    q: str = "",
    state: str = "",
    after: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[Deployment], bool]:
    """Newest first, behind `after`, and whether there are more. `q`: a part of the name."""
    here = select(Deployment).where(Deployment.workspace_id == workspace_id)
    query = here.where(Deployment.deleted_at.is_(None))
    if model_id:
        query = query.where(
            or_(Deployment.model_id == model_id, Deployment.served_model_id == model_id)
        )
    if q:
        query = query.where(Deployment.name.icontains(q, autoescape=True))
    if state:
        query = query.where(Deployment.state == state)
    order = [Deployment.created_at.desc()]
    query = paging.behind(db, query, here, order, Deployment.id, after)
    found = list(db.scalars(query.offset(offset).limit(limit + 1)))
    return found[:limit], len(found) > limit


def replicas(db: Session, deployments: Sequence[Deployment]) -> dict[str, list[Replica]]:
    """The replicas of each, by deployment id."""
    found: dict[str, list[Replica]] = {deployment.id: [] for deployment in deployments}
    for replica in db.scalars(living().where(Replica.deployment_id.in_(found))):
        found[replica.deployment_id].append(replica)
    return found


def events(db: Session, deployment_id: str, limit: int = 200) -> list[DeploymentEvent]:
    """Newest first."""
    return list(
        db.scalars(
            select(DeploymentEvent)
            .where(DeploymentEvent.deployment_id == deployment_id)
            .order_by(DeploymentEvent.id.desc())
            .limit(limit)
        )
    )


def log(
    db: Session, replica: Replica, fence: int | None = None, offset: int = 0, limit: int = 64
) -> tuple[int, int, bytes]:
    """What an engine wrote: (fence, offset after it, bytes), at most `limit` chunks.

    `fence` names one start of the replica, by default the last that wrote anything.
    """
    newest = db.scalar(
        select(func.max(ReplicaLog.fence)).where(ReplicaLog.replica_id == replica.id)
    )
    if newest is None:
        return replica.fence, 0, b""
    if fence is None or fence < newest:
        fence, offset = newest, 0
    chunks = db.execute(
        select(ReplicaLog.offset, ReplicaLog.data)
        .where(
            ReplicaLog.replica_id == replica.id,
            ReplicaLog.fence == fence,
            ReplicaLog.offset >= offset,
        )
        .order_by(ReplicaLog.offset)
        .limit(limit)
    ).all()
    if not chunks:
        return fence, offset, b""
    return fence, chunks[-1][0] + len(chunks[-1][1]), b"".join(data for _, data in chunks)


# -- stopping and going on ---------------------------------------------------------------


def stop(db: Session, workspace_id: str, deployment_id: str) -> Deployment:
    """Stop all engines and give the devices back; the settings stay. Twice is once."""
    deployment = lock(db, get(db, workspace_id, deployment_id).id)
    guests.check_free(db, deployment)
    stop_all(db, deployment)
    return deployment


def start(db: Session, workspace_id: str, deployment_id: str) -> Deployment:
    """Run again what was stopped; what failed is tried again at once. Raises OutOfMoney."""
    deployment = lock(db, get(db, workspace_id, deployment_id).id)
    check_money(db, workspace_id, deployment.created_by)
    deployment.desired = "running"
    deployment.error = None
    if deployment.host_id:
        find_host(db, deployment)
    for replica in replicas_of(db, deployment.id):
        replica.error, replica.retry_at, replica.failures = None, None, 0
    if deployment.mode == "merged" and deployment.served_model_id is None:
        merge(db, deployment)
    advance(db, deployment, refuse=True)
    send(db, SWEEP)
    return deployment


def delete(db: Session, workspace_id: str, deployment_id: str) -> None:
    """The name is free at once; the engines stop, then the model is let go.

    Raises Conflict if an alias leads to it.
    """
    deployment = lock(db, get(db, workspace_id, deployment_id).id)
    guests.check_free(db, deployment)
    aliases.refuse_if_led_to(db, deployment)
    deployment.deleted_at = now()
    stop_all(db, deployment)
    advance(db, deployment)


# -- for the gateway ---------------------------------------------------------------------


@dataclass(frozen=True)
class RouteReplica:
    id: str
    address: str  # http://127.0.0.1:41234
    secret: str
    served_name: str  # what the engine calls the model
    engine: str  # vllm or transformers
    # For a guest: what its requests carry beside what the caller says.
    sends: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """Where a model name leads: the replicas that are ready, and why there are none."""

    deployment_id: str
    name: str
    state: str
    reason: str
    replicas: tuple[RouteReplica, ...]
    asleep: bool = False  # or waking: none is ready, and a request may wait for one
    embeds: bool = False  # it gives embeddings, and writes no answers
    adapts: bool = False  # its engines have room for adapters
    model_id: str = ""  # by which its tokens are priced, and by its base's
    base_id: str = ""


@dataclass(frozen=True)
class ModelName:
    name: str
    created_at: datetime
    deployment_id: str  # of an alias: the deployment that gets most of its requests
    embeds: bool = False  # it gives embeddings, and writes no answers


def route(db: Session, workspace_id: str, name: str) -> Route | None:
    """The deployment called `name` with its ready replicas, in one query; None if there is none."""
    rows = db.execute(
        select(
            Deployment.id,
            Deployment.state,
            Deployment.reason,
            Deployment.idled_at,
            Deployment.sends,
            Deployment.arguments,
            (Deployment.mode == "adapter") | (Deployment.adapters > 0),  # a guest's mode is adapter
            Model.id,
            Model.base_id,
            Replica.id,
            Replica.address,
            Replica.secret,
            Replica.engine,
        )
        .select_from(Deployment)
        .join(Model, Model.id == Deployment.model_id)
        .outerjoin(Replica, guests.answers())
        .where(
            Deployment.workspace_id == workspace_id,
            Deployment.name == name,
            Deployment.deleted_at.is_(None),
        )
        .order_by(Replica.index)
    ).all()
    if not rows:
        return None
    deployment_id, state, reason, idled_at, sends, arguments, adapts, model_id, base_id = rows[0][
        :9
    ]
    ready = tuple(
        RouteReplica(replica_id, address, secret, name, engine, sends)
        for *_, replica_id, address, secret, engine in rows
        if replica_id
    )
    return Route(
        deployment_id,
        name,
        state,
        reason,
        ready,
        asleep=bool(idled_at and not ready),
        embeds=runners.embeds(arguments),
        adapts=adapts,
        model_id=model_id,
        base_id=base_id or "",
    )


def names(db: Session, workspace_id: str) -> list[ModelName]:
    """The model names that can be called, by name: deployments that are ready or would wake, and
    the aliases that lead to any of them.
    """
    rows: Sequence[Any] = db.execute(
        select(Deployment.name, Deployment.created_at, Deployment.id, Deployment.arguments).where(
            Deployment.workspace_id == workspace_id,
            Deployment.deleted_at.is_(None),
            or_(Deployment.ready_at.is_not(None), Deployment.idled_at.is_not(None)),
            Deployment.desired != "stopped",
        )
    ).all()
    found = {row[0]: ModelName(row[0], row[1], row[2], runners.embeds(row[3])) for row in rows}
    callable_ = {one.deployment_id for one in found.values()}
    embedding = {one.deployment_id for one in found.values() if one.embeds}
    for alias in aliases.listed(db, workspace_id):
        led = [one for one in alias.targets if one["weight"] and one["deployment"] in callable_]
        if led:
            main = max(led, key=lambda one: int(one["weight"]))
            target = main["deployment"]
            found[alias.name] = ModelName(alias.name, alias.created_at, target, target in embedding)
        else:
            found.pop(alias.name, None)  # it hides the deployment of its name
    return [found[name] for name in sorted(found)]


def holding(db: Session, replica_ids: Sequence[str]) -> dict[str, list[str]]:
    """The names of the devices that each replica holds."""
    found: dict[str, list[str]] = {}
    for owner_id, name in db.execute(
        select(Lease.owner_id, Device.name)
        .join(Device)
        .where(
            Lease.owner_kind == "replica",
            Lease.owner_id.in_(replica_ids),
            Lease.released_at.is_(None),
        )
        .order_by(Device.name)
    ):
        found.setdefault(owner_id, []).append(name)
    return found
