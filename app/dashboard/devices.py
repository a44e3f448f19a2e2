"""What the pages of devices and nodes show: readings, who holds what, and who only holds it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import User
from app.cluster import nodes
from app.cluster import overview as cluster
from app.db import now
from app.deployments import moving
from app.deployments.tables import Deployment, Replica
from app.jobs.tables import Job

IDLE = timedelta(minutes=15)  # held for so long without doing anything


@dataclass(frozen=True)
class Owner:
    """A job, or the deployment of a replica."""

    kind: str  # job or deployment
    id: str
    name: str
    person: str


@dataclass
class Cluster:
    nodes: list[dict[str, Any]]
    owners: dict[str, Owner]  # by the owner's id of a lease

    @property
    def devices(self) -> list[dict[str, Any]]:
        return [device for node in self.nodes for device in node["devices"]]

    @property
    def counts(self) -> Counter[str]:
        """{all, held, free, taken, unhealthy, idle}; a device counts as free where it can be had."""
        found = Counter(all=len(self.devices))
        for node in self.nodes:
            for device in node["devices"]:
                found[standing(device, node)] += 1
                found["idle"] += any(holder["idle"] for holder in device["holders"])
        return found


def standing(device: dict[str, Any], node: dict[str, Any]) -> str:
    """unhealthy, held, taken, free, or closed: nobody holds it, and its node takes nothing new."""
    if not device["healthy"]:
        return "unhealthy"
    if device["holders"]:
        return "held"
    if device["taken"]:
        return "taken"
    return "free" if node["state"] == "ready" else "closed"


def uncordon(db: Session, node_id: str) -> None:
    """The node takes new work again, and what had not yet left for a drain stays. Raises NotFound."""
    nodes.cordon(db, node_id, cordoned=False)
    moving.stay(db, node_id)


def everything(db: Session) -> Cluster:
    return gathered(db, cluster.overview(db)["nodes"])


def of_node(db: Session, node_id: str) -> Cluster:
    """Raises NotFound."""
    return gathered(db, [cluster.node(db, node_id)])


def of_workspace(db: Session, workspace_id: str) -> Cluster:
    """The devices that a workspace holds; of the programs on them, only its own."""
    nodes = []
    for node in cluster.overview(db)["nodes"]:
        devices = []
        for device in node["devices"]:
            own = [one for one in device["holders"] if one["workspace_id"] == workspace_id]
            if own:
                stats = cluster.private(device["stats"])
                devices.append(device | {"holders": own, "stats": stats})
        if devices:
            nodes.append(node | {"devices": devices})
    return gathered(db, nodes)


def gathered(db: Session, nodes: list[dict[str, Any]]) -> Cluster:
    at = now()
    holders = [h for node in nodes for device in node["devices"] for h in device["holders"]]
    for holder in holders:
        active = holder["active_at"] or holder["since"]
        holder["held"] = (at - holder["since"]).total_seconds()
        idle = holder["measured"] > 0 and at - active >= IDLE
        holder["idle"] = (at - active).total_seconds() if idle else None
    for node in nodes:
        for device in node["devices"]:
            device["standing"] = standing(device, node)
    return Cluster(nodes, owners(db, (holder["owner_id"] for holder in holders)))


def owners(db: Session, ids: Iterable[str]) -> dict[str, Owner]:
    wanted = set(ids)
    jobs = (
        select(Job.id, Job.name, User.name)
        .join(User, User.id == Job.created_by)
        .where(Job.id.in_(wanted))
    )
    replicas = (
        select(Replica.id, Deployment.id, Deployment.name, User.name)
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .join(User, User.id == Deployment.created_by)
        .where(Replica.id.in_(wanted))
    )
    found = {id_: Owner("job", id_, name, person) for id_, name, person in db.execute(jobs)}
    for replica_id, id_, name, person in db.execute(replicas):
        found[replica_id] = Owner("deployment", id_, name, person)
    return found
