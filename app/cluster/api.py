"""`/api/v1/devices` and `/api/v1/nodes`: what there is, who holds it and who waits for it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from app.accounts.auth import PLATFORM, Principal, requires
from app.cluster import fair, nodes, overview, readings
from app.cluster.schemas import (
    PRIORITIES,
    Devices,
    History,
    Labels,
    NodeOut,
    Nodes,
    Share,
    ShareIn,
    Waiting,
)
from app.queue import Db
from app.quotas import service as quotas

router = APIRouter(prefix="/api/v1", tags=["devices"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
Range = Annotated[Literal["1h", "24h", "7d", "30d"], Query(alias="range")]


@router.get("/devices", name="api:devices:list")
def list_devices(who: Annotated[Principal, requires("viewer", "account")], db: Db) -> Devices:
    """Every device, with its last reading and its health. Holders are shown to platform admins;
    others see those of their workspace.
    """
    own = None if who.is_platform_admin else who.workspace_id
    return Devices.model_validate({"data": overview.devices(db, own)})


@router.get("/devices/waiting", name="api:devices:waiting")
def list_waiting(_who: Admin, db: Db) -> Waiting:
    """Which jobs and replicas wait for devices, and why."""
    return Waiting.model_validate({"data": overview.overview(db)["waiting"]})


@router.get("/nodes", name="api:nodes:list")
def list_nodes(_who: Admin, db: Db) -> Nodes:
    """The machines, and what each said of itself."""
    return Nodes(data=[told(node) for node in overview.overview(db)["nodes"]])


@router.get("/nodes/{node_id}", name="api:nodes:get")
def get_node(node_id: str, _who: Admin, db: Db) -> NodeOut:
    """One machine, and what it said of itself."""
    return told(overview.node(db, node_id))


@router.get("/nodes/{node_id}/history", name="api:nodes:history")
def get_history(node_id: str, _who: Admin, db: Db, shown: Range = "1h") -> History:
    """What a machine's devices did: use, memory, temperature and power over the last hour, day,
    week or 30 days.
    """
    names = {device["id"]: device["name"] for device in overview.node(db, node_id)["devices"]}
    found = readings.curves(db, names, shown)
    devices = {names[device_id]: curves for device_id, curves in found.devices.items()}
    return History.model_validate(
        {"range": shown, "step": found.step, "t": found.t, "devices": devices}
    )


@router.patch("/nodes/{node_id}", name="api:nodes:label")
def label(node_id: str, body: Labels, _who: Admin, db: Db) -> NodeOut:
    """Say what a machine is: its labels, all of them, from now on."""
    nodes.label(db, node_id, body.labels)
    db.flush()
    return told(overview.node(db, node_id))


def told(node: dict[str, object]) -> NodeOut:
    devices: list[dict[str, str]] = node["devices"]  # type: ignore[assignment]
    return NodeOut.model_validate(node | {"devices": [one["name"] for one in devices]})


@router.get("/quotas/{workspace}/share", name="api:devices:share")
def get_share(
    workspace: str, who: Annotated[Principal, requires("viewer", "account")], db: Db
) -> Share:
    """What the workspace is due where several want the same devices."""
    return share_of(db, quotas.workspace(db, who, workspace).id)


@router.put("/quotas/{workspace}/share", name="api:devices:put_share")
def put_share(workspace: str, body: ShareIn, who: Admin, db: Db) -> Share:
    """Counts from the next decision on; what is left out stays."""
    found = quotas.workspace(db, who, workspace)
    known = fair.of(db, found.id)
    weight = known.weight if body.weight is None else body.weight
    priority = known.priority if body.priority is None else PRIORITIES.index(body.priority)
    fair.put(db, found.id, weight, priority)
    return share_of(db, found.id)


def share_of(db: Db, workspace_id: str) -> Share:
    row = fair.of(db, workspace_id)
    return Share(workspace=workspace_id, weight=row.weight, priority=PRIORITIES[row.priority])
