"""What stands where: devices with who holds them, who waits and why, use by workspace."""

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster import fair, health
from app.cluster.scheduling.order import NORMAL
from app.cluster.service import held, unreachable
from app.cluster.tables import Device, Lease, Node, Request
from app.errors import N_, NotFound
from app.quotas import service as quotas

PLAIN = (1.0, NORMAL)  # weight and priority of a workspace for which nothing is set


def overview(db: Session) -> dict[str, list[dict[str, Any]]]:
    """For platform admins.

    {nodes: [{id, host, state (ready, cordoned, draining, drained, unreachable, dead), seen_at,
      facts, labels, cordoned, drain_since, drain_until,
      devices: [{id, name, kind, model, uuid, memory, used, taken, healthy, problems, facts, stats,
        holders: [{owner_kind, owner_id, workspace_id, workspace, bytes, exclusive, since,
          measured, worked, use, active_at}]}]}],
     waiting: [{owner_kind, owner_id, workspace_id, workspace, devices, memory, reason, starts_at,
       since}]}
    """
    return {"nodes": nodes(db), "waiting": waiting(db)}


def nodes(db: Session) -> list[dict[str, Any]]:
    """As `overview` has them."""
    names = dict(db.execute(select(Workspace.id, Workspace.name)).all())
    holders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for lease in db.scalars(held().order_by(Lease.created_at)):
        holders[lease.device_id].append(
            {
                "owner_kind": lease.owner_kind,
                "owner_id": lease.owner_id,
                "workspace_id": lease.workspace_id,
                "workspace": names[lease.workspace_id],
                "bytes": lease.bytes,
                "exclusive": lease.exclusive,
                "since": lease.created_at,
                "measured": lease.measured,
                "worked": lease.worked,
                "use": lease.worked / lease.measured if lease.measured else None,
                "active_at": lease.active_at,
            }
        )
    devices: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for device in db.scalars(select(Device).order_by(Device.name)):
        if device.retired and not holders[device.id]:
            continue
        devices[device.node_id].append(
            {
                "id": device.id,
                "name": device.name,
                "kind": device.kind,
                "model": device.model,
                "uuid": device.uuid,
                "memory": device.memory,
                "used": sum(holder["bytes"] for holder in holders[device.id]),
                "taken": device.taken,
                "healthy": device.healthy,
                "problems": health.reasons(device.problems),
                "facts": device.facts,
                "stats": device.stats,
                "holders": holders[device.id],
            }
        )
    return [
        {
            "id": node.id,
            "host": node.host,
            "state": node_state(node, devices[node.id]),
            "seen_at": node.seen_at,
            "facts": node.facts,
            "labels": node.labels,
            "cordoned": node.cordoned,
            "drain_since": node.drain_since,
            "drain_until": node.drain_until,
            "devices": devices[node.id],
        }
        for node in db.scalars(select(Node).where(Node.removed_at.is_(None)).order_by(Node.id))
    ]


def waiting(db: Session) -> list[dict[str, Any]]:
    """As `overview` has it."""
    names = dict(db.execute(select(Workspace.id, Workspace.name)).all())
    query = (
        select(Request).where(Request.granted_at.is_(None)).order_by(Request.created_at, Request.id)
    )
    return [
        {
            "owner_kind": request.owner_kind,
            "owner_id": request.owner_id,
            "workspace_id": request.workspace_id,
            "workspace": names[request.workspace_id],
            "devices": request.devices,
            "memory": request.memory,
            "reason": request.reason,
            "position": request.position,
            "starts_at": request.starts_at,
            "since": request.created_at,
        }
        for request in db.scalars(query)
    ]


def node(db: Session, node_id: str) -> dict[str, Any]:
    """One of `overview`'s nodes. Raises NotFound."""
    for found in overview(db)["nodes"]:
        if found["id"] == node_id:
            return found
    raise NotFound(N_("There is no such node."))


def node_state(node: Node, devices: list[dict[str, Any]]) -> str:
    if node.dead_at:
        return "dead"
    if unreachable(node):
        return "unreachable"
    if node.drain_since:
        return "draining" if any(device["holders"] for device in devices) else "drained"
    return "cordoned" if node.cordoned else "ready"


def limits(db: Session) -> list[dict[str, Any]]:
    """Per workspace, by name: {workspace_id, name, limit (None: none), held, waiting}, in devices,
    and what it is due: {weight, priority}.
    """
    most, shares = quotas.limits(db), fair.all_of(db)
    holding = Counter(lease.workspace_id for lease in db.scalars(held()))
    asked: dict[str, int] = dict(
        db.execute(
            select(Request.workspace_id, func.sum(Request.devices))
            .where(Request.granted_at.is_(None))
            .group_by(Request.workspace_id)
        ).all()
    )
    return [
        {
            "workspace_id": workspace_id,
            "name": name,
            "limit": most.get(workspace_id),
            "held": holding[workspace_id],
            "waiting": int(asked.get(workspace_id, 0)),
            "weight": shares.get(workspace_id, PLAIN)[0],
            "priority": shares.get(workspace_id, PLAIN)[1],
        }
        for workspace_id, name in db.execute(
            select(Workspace.id, Workspace.name).order_by(Workspace.name, Workspace.id)
        )
    ]


def devices(db: Session, workspace_id: str | None) -> list[dict[str, Any]]:
    """Every device as `DeviceOut` has it. With a `workspace_id`, other workspaces' holders are
    left out, as are the names of programs that are not ours; that the device is taken still shows.
    """
    found = []
    for node in overview(db)["nodes"]:
        for device in node["devices"]:
            all_holders = device["holders"]
            found.append(
                device
                | {
                    "stats": device["stats"] if workspace_id is None else private(device["stats"]),
                    "node": node["id"],
                    "node_state": node["state"],
                    "state": state_of(device),
                    "holders": [
                        holder
                        for holder in all_holders
                        if workspace_id in (None, holder["workspace_id"])
                    ],
                }
            )
    return found


def state_of(device: dict[str, Any]) -> str:
    """Held (whole), shared, taken (by programs that are not ours) or free."""
    if any(holder["exclusive"] for holder in device["holders"]):
        return "held"
    if device["holders"]:
        return "shared"
    return "taken" if device["taken"] else "free"


def private(stats: dict[str, Any]) -> dict[str, Any]:
    """For those who are not to know which programs others run."""
    return {name: value for name, value in stats.items() if name != "strangers"}
