"""Guests: adapters that the engines of another deployment of their base carry.

A guest has a name, a state and a page as any deployment, but no replicas and no devices. What
nodes do with guests stands in `carrying`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from app.db import now
from app.deployments import sizing, speech, states
from app.deployments.states import switch
from app.deployments.tables import AdapterLoad, Deployment, Replica
from app.errors import N_, Conflict, DomainError
from app.models.tables import Model

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


# -- finding a host ----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where an adapter can be carried; else why none of the engines that run will do."""

    host: Deployment | None = None
    sends: dict[str, Any] = field(default_factory=dict)  # with each request
    refusal: tuple[str, dict[str, Any]] | None = None  # msgid and params


def place(
    db: Session,
    workspace_id: str,
    adapter: Model,
    base: Model,
    *,
    max_model_len: int | None = None,
    host: Deployment | None = None,
) -> Place:
    """The deployment that can carry `adapter`, ready ones first; `host` allows only that one."""
    refusal = None
    for one in [host] if host else hosts(db, workspace_id, base.id):
        why, sends = tried(db, one, adapter, base, max_model_len)
        if why is None:
            return Place(one, sends)
        refusal = refusal or why
    return Place(refusal=refusal)


def hosts(db: Session, workspace_id: str, base_id: str) -> list[Deployment]:
    """The deployments of a base whose engines have room for adapters."""
    query = (
        select(Deployment)
        .join(Model, Model.id == Deployment.served_model_id)
        .where(
            Deployment.workspace_id == workspace_id,
            Deployment.deleted_at.is_(None),
            Deployment.desired != "stopped",
            Deployment.state != "error",
            Deployment.host_id.is_(None),
            Deployment.adapters > 0,
            or_(
                Model.id == base_id,
                and_(Deployment.mode == "adapter", Model.base_id == base_id),
            ),
        )
        .order_by((Deployment.state == "ready").desc(), Deployment.created_at, Deployment.id)
    )
    return list(db.scalars(query))


Why = tuple[str, dict[str, Any]]


def tried(
    db: Session, host: Deployment, adapter: Model, base: Model, max_model_len: int | None
) -> tuple[Why | None, dict[str, Any]]:
    """Why `host` cannot carry `adapter`, or None; and what to send with each request."""
    named = {"host": host.name}
    rank = sizing.rank_of(sizing.read_json(adapter, "adapter_config.json"))
    if rank > host.adapter_rank:
        message = N_(
            "%(host)s has room for adapters up to rank %(most)s; this one has rank %(rank)s."
        )
        return (message, named | {"most": host.adapter_rank, "rank": rank}), {}
    if (max_model_len or 0) > host.max_model_len:
        message = N_("%(host)s answers with at most %(most)s tokens of context.")
        return (message, named | {"most": host.max_model_len}), {}
    own = db.get_one(Model, host.served_model_id)
    try:
        theirs = speech.of(base, own if host.mode == "adapter" else None)
        ours = speech.of(base, adapter)
    except (OSError, ValueError, TypeError, KeyError, DomainError):
        return (N_("Its tokenizer and chat template cannot be compared with %(host)s."), named), {}
    if message := speech.differs(theirs, ours):
        return (message, named), {}
    return None, speech.sends(theirs, ours)


def attach(deployment: Deployment, found: Place) -> None:
    """Make `deployment` a guest of the host that was found."""
    assert found.host
    deployment.host_id, deployment.sends = found.host.id, found.sends
    deployment.max_model_len, deployment.replicas = found.host.max_model_len, 0
    deployment.asked_at = now()


def check_host(db: Session, deployment_id: str) -> None:
    """Under the cluster's lock: raises Conflict if the host is being taken down meanwhile."""
    host = db.get_one(Deployment, deployment_id, populate_existing=True)
    if host.desired == "stopped" or host.deleted_at:
        raise Conflict(
            N_("%(host)s has just been stopped. Try again."), code="host_stopped", host=host.name
        )


# -- hosts -------------------------------------------------------------------------------


def guests_of(db: Session, host_id: str) -> list[Deployment]:
    """Those that are there, stopped ones too, by name."""
    return list(
        db.scalars(
            select(Deployment)
            .where(Deployment.host_id == host_id, Deployment.deleted_at.is_(None))
            .order_by(Deployment.name)
        )
    )


def wanted(db: Session, host_id: str) -> list[Deployment]:
    """The guests that shall answer, last used first."""
    running = [one for one in guests_of(db, host_id) if one.desired == "running"]
    return sorted(running, key=lambda one: (last_asked(one), one.id), reverse=True)


def last_asked(guest: Deployment) -> datetime:
    return max(guest.last_used_at or LONG_AGO, guest.asked_at or LONG_AGO, guest.created_at)


def chosen(db: Session, host: Deployment) -> list[Deployment]:
    """Those that shall be loaded: as many as there is room for, the last used."""
    return wanted(db, host.id)[: host.adapters]


def check_free(db: Session, host: Deployment) -> None:
    """Raises Conflict, naming them, while guests depend on this deployment's engines."""
    if left := [one for one in guests_of(db, host.id) if one.desired != "stopped"]:
        raise Conflict(
            N_(
                "The engines of %(name)s carry these adapters: %(guests)s. Stop or delete them "
                "first: they would answer no more. Started again, each gets an engine of its own "
                "if no other can carry it."
            ),
            code="carries_adapters",
            name=host.name,
            guests=", ".join(sorted(one.name for one in left)),
        )


# -- states ------------------------------------------------------------------------------


def settle(db: Session, deployment: Deployment) -> None:
    """Derive the state of a locked deployment: a guest's from what its host's replicas carry."""
    if deployment.host_id is None:
        states.settle(db, deployment)
        return
    ready = [one for one in states.replicas_of(db, deployment.host_id) if one.state == "ready"]
    live = {one.id: one.fence for one in ready if one.engine == "vllm"}
    loads = [one for one in loads_of(db, deployment.id) if live.get(one.replica_id) == one.fence]
    failed = next((one for one in loads if one.state == "failed"), None)
    host = db.get_one(Deployment, deployment.host_id)
    if deployment.desired != "running":
        left = any(one.state == "loaded" for one in loads)
        to(db, deployment, "stopping" if left else deployment.desired)
    elif any(one.state == "loaded" for one in loads):
        deployment.error = None
        to(db, deployment, "ready")
    elif failed and failed.error:
        deployment.error = failed.error
        to(db, deployment, "error", str(failed.error.get("code", "")))
    elif ready and not live:
        deployment.error = NO_VLLM
        to(db, deployment, "error", "adapter")
    elif host.desired == "idle" or (live and deployment not in chosen(db, host)):
        deployment.idled_at = deployment.idled_at or now()
        to(db, deployment, "idle")
    elif not live and host.state == "pending" and host.reason:
        to(db, deployment, "pending", host.reason)
    elif not live and host.state in ("error", "stopped"):
        to(db, deployment, "pending", "host")
    else:
        to(db, deployment, "starting")


NO_VLLM = {
    "code": "adapter",
    "message": N_("Only the transformers engine runs here, and it cannot serve adapters."),
    "params": {},
    "advice": N_("Deploy it again in the mode “merged”."),
}


def to(db: Session, guest: Deployment, state: str, reason: str = "") -> None:
    """A guest may come from anywhere, for it follows its host: by way of pending, then."""
    if state != guest.state and state not in states.MOVES[guest.state]:
        switch(db, guest, "pending", "host")
    switch(db, guest, state, reason)


def loads_of(db: Session, guest_id: str) -> Sequence[AdapterLoad]:
    return db.scalars(
        select(AdapterLoad)
        .where(AdapterLoad.deployment_id == guest_id)
        .execution_options(populate_existing=True)
    ).all()


def again(db: Session, guest: Deployment) -> None:
    """A locked guest is wanted: what failed is tried again, and it counts as just used."""
    guest.desired, guest.error, guest.asked_at = "running", None, now()
    for load in loads_of(db, guest.id):
        if load.state == "failed":
            db.delete(load)
    db.flush()


def ask(db: Session, guest: Deployment) -> None:
    """A request came for a locked guest that is not loaded: the node loads it, in place of the one
    that was used least recently.
    """
    guest.desired, guest.asked_at = "running", now()
    settle(db, guest)


def answers() -> ColumnElement[bool]:
    """For a join of deployments with the replicas that answer for them: ready ones of their own,
    or those of the host that have loaded them.
    """
    loaded = exists().where(
        AdapterLoad.replica_id == Replica.id,
        AdapterLoad.deployment_id == Deployment.id,
        AdapterLoad.fence == Replica.fence,
        AdapterLoad.state == "loaded",
    )
    return (
        (Replica.deployment_id == func.coalesce(Deployment.host_id, Deployment.id))
        & (Replica.state == "ready")
        & (Deployment.host_id.is_(None) | loaded)
    )


def carriers(db: Session, guest_ids: Sequence[str]) -> dict[str, list[tuple[Replica, AdapterLoad]]]:
    """The replicas in which each guest is loaded, or failed to be, in the start that runs."""
    found: dict[str, list[tuple[Replica, AdapterLoad]]] = {one: [] for one in guest_ids}
    query = (
        select(Replica, AdapterLoad)
        .join(
            AdapterLoad,
            (AdapterLoad.replica_id == Replica.id) & (AdapterLoad.fence == Replica.fence),
        )
        .where(AdapterLoad.deployment_id.in_(guest_ids), Replica.state == "ready")
        .order_by(Replica.index)
    )
    for replica, load in db.execute(query):
        found[load.deployment_id].append((replica, load))
    return found
