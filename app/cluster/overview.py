"""What stands where: devices with who holds them, who waits and why, use by workspace."""

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster.service import held, unreachable
from app.cluster.tables import Device, Lease, Node, Request
from app.quotas import service as quotas


def overview(db: Session) -> dict[str, list[dict[str, Any]]]:
    """For platform admins.

    {nodes: [{id, host, state (ready, cordoned, unreachable, dead), seen_at, facts,
      devices: [{id, name, kind, model, memory, used, healthy, stats,
        holders: [{owner_kind, owner_id, workspace_id, workspace, bytes, exclusive, since}]}]}],
     waiting: [{owner_kind, owner_id, workspace_id, workspace, devices, memory, reason, since}]}
    """
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
            }
        )
    devices: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for device in db.scalars(select(Device).order_by(Device.name)):
        devices[device.node_id].append(
            {
                "id": device.id,
                "name": device.name,
                "kind": device.kind,
                "model": device.model,
                "memory": device.memory,
                "used": sum(holder["bytes"] for holder in holders[device.id]),
                "healthy": device.healthy,
                "stats": device.stats,
                "holders": holders[device.id],
            }
        )
    return {
        "nodes": [
            {
                "id": node.id,
                "host": node.host,
                "state": node_state(node),
                "seen_at": node.seen_at,
                "facts": node.facts,
                "devices": devices[node.id],
            }
            for node in db.scalars(select(Node).where(Node.removed_at.is_(None)).order_by(Node.id))
        ],
        "waiting": [
            {
                "owner_kind": request.owner_kind,
                "owner_id": request.owner_id,
                "workspace_id": request.workspace_id,
                "workspace": names[request.workspace_id],
                "devices": request.devices,
                "memory": request.memory,
                "reason": request.reason,
                "since": request.created_at,
            }
            for request in db.scalars(
                select(Request)
                .where(Request.granted_at.is_(None))
                .order_by(Request.created_at, Request.id)
            )
        ],
    }


def node_state(node: Node) -> str:
    if node.dead_at:
        return "dead"
    if unreachable(node):
        return "unreachable"
    return "cordoned" if node.cordoned else "ready"


def limits(db: Session) -> list[dict[str, Any]]:
    """Per workspace, by name: {workspace_id, name, limit (None: none), held, waiting}, in devices."""
    most = quotas.limits(db)
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
        }
        for workspace_id, name in db.execute(
            select(Workspace.id, Workspace.name).order_by(Workspace.name, Workspace.id)
        )
    ]


def devices(db: Session, workspace_id: str | None) -> list[dict[str, Any]]:
    """Every device as `DeviceOut` has it. With a `workspace_id`, other workspaces' holders are
    left out; that the device is taken still shows.
    """
    found = []
    for node in overview(db)["nodes"]:
        for device in node["devices"]:
            all_holders = device["holders"]
            whole = any(holder["exclusive"] for holder in all_holders)
            found.append(
                device
                | {
                    "node": node["id"],
                    "node_state": node["state"],
                    "state": "held" if whole else "shared" if all_holders else "free",
                    "holders": [
                        holder
                        for holder in all_holders
                        if workspace_id in (None, holder["workspace_id"])
                    ],
                }
            )
    return found
