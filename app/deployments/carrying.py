"""What a node does for guests: what its replicas shall load and unload, and what came of it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db import now
from app.deployments.guests import chosen
from app.deployments.states import note
from app.deployments.tables import AdapterLoad, Deployment, Replica
from app.deployments.wanted import advance
from app.errors import N_
from app.models.tables import Model


@dataclass(frozen=True)
class Guest:
    id: str  # of its deployment
    name: str  # what the engine calls it
    artefact: str


@dataclass(frozen=True)
class Work:
    """What one replica has to do."""

    replica_id: str
    fence: int
    address: str
    secret: str
    load: tuple[Guest, ...]
    unload: tuple[Guest, ...]


def to_do(db: Session, node_id: str) -> list[Work]:
    """For the replicas of this node that carry guests, or should: only those with work."""
    rows = db.execute(
        select(Replica, Deployment)
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .where(
            Replica.node_id == node_id,
            Replica.state == "ready",
            Replica.engine == "vllm",
            Deployment.adapters > 0,
        )
        .order_by(Replica.id)
    ).all()
    shall = {host.id: chosen(db, host) for host in {host for _, host in rows}}
    found = []
    for replica, host in rows:
        loads = db.execute(
            select(AdapterLoad.state, Deployment)
            .join(Deployment, Deployment.id == AdapterLoad.deployment_id)
            .where(AdapterLoad.replica_id == replica.id, AdapterLoad.fence == replica.fence)
        ).all()
        known = {guest.id for _, guest in loads}
        wanted = {guest.id for guest in shall[host.id]}
        load = [guest for guest in shall[host.id] if guest.id not in known]
        unload = [guest for state, guest in loads if state == "loaded" and guest.id not in wanted]
        if load or unload:
            found.append(
                Work(
                    replica_id=replica.id,
                    fence=replica.fence,
                    address=replica.address,
                    secret=replica.secret,
                    load=tuple(guest_of(db, one) for one in load),
                    unload=tuple(guest_of(db, one) for one in unload),
                )
            )
    return found


def guest_of(db: Session, deployment: Deployment) -> Guest:
    model = db.get_one(Model, deployment.served_model_id)
    return Guest(deployment.id, deployment.name, model.artefact)


def mark_loaded(
    db: Session,
    replica_id: str,
    fence: int,
    guest_id: str,
    *,
    seconds: float,
    error: dict[str, Any] | None = None,
) -> bool:
    """The replica carries the guest, or `error` ({code, message, params, advice}) says why not.

    False when the replica has been started anew meanwhile.
    """
    found = held(db, replica_id, fence, guest_id)
    if found is None:
        return False
    replica, guest = found
    values = {
        "fence": fence,
        "state": "failed" if error else "loaded",
        "seconds": round(seconds, 3),
        "error": error,
        "at": now(),
    }
    keys = {"replica_id": replica_id, "deployment_id": guest_id}
    db.execute(
        insert(AdapterLoad)
        .values(**keys, **values)
        .on_conflict_do_update(index_elements=list(keys), set_=values)
    )
    if error:
        note(db, guest, "error", error["message"], error.get("params") or {}, replica_id)
    else:
        params = {"index": replica.index + 1, "seconds": round(seconds, 1)}
        note(
            db, guest, "replica", N_("Loaded into replica %(index)s in %(seconds)s s."), params,
            replica_id,
        )  # fmt: skip
    advance(db, guest)
    return True


def mark_unloaded(db: Session, replica_id: str, fence: int, guest_id: str) -> bool:
    """The replica carries the guest no more. False when it has been started anew meanwhile."""
    found = held(db, replica_id, fence, guest_id)
    if found is None:
        return False
    replica, guest = found
    if load := db.get(AdapterLoad, (replica_id, guest_id), populate_existing=True):
        db.delete(load)
        db.flush()
    note(
        db, guest, "replica", N_("Unloaded from replica %(index)s."),
        {"index": replica.index + 1}, replica_id,
    )  # fmt: skip
    advance(db, guest)
    return True


def held(
    db: Session, replica_id: str, fence: int, guest_id: str
) -> tuple[Replica, Deployment] | None:
    """The replica and the locked guest, if this start of the replica is the one that runs."""
    guest = db.get(Deployment, guest_id, with_for_update=True, populate_existing=True)
    replica = db.get(Replica, replica_id, populate_existing=True)
    if guest is None or replica is None or replica.fence != fence:
        return None
    return replica, guest
