"""`/api/v1/devices` and `/api/v1/nodes`: what there is, who holds it and who waits for it."""

from typing import Annotated

from fastapi import APIRouter

from app.accounts.auth import PLATFORM, Principal, requires
from app.cluster import overview, service
from app.cluster.schemas import Devices, NodeOut, Nodes, Waiting
from app.errors import N_, NotFound
from app.queue import Db

router = APIRouter(prefix="/api/v1", tags=["devices"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("/devices", name="api:devices:list")
def list_devices(who: Annotated[Principal, requires("viewer", "account")], db: Db) -> Devices:
    """Every device. Holders are shown to platform admins; others see those of their workspace."""
    own = None if who.is_platform_admin else who.workspace_id
    return Devices.model_validate({"data": overview.devices(db, own)})


@router.get("/devices/waiting", name="api:devices:waiting")
def list_waiting(_who: Admin, db: Db) -> Waiting:
    """Which jobs and replicas wait for devices, and why."""
    return Waiting.model_validate({"data": overview.overview(db)["waiting"]})


@router.get("/nodes", name="api:nodes:list")
def list_nodes(_who: Admin, db: Db) -> Nodes:
    """The machines, and what each said of itself."""
    return Nodes(data=nodes(db))


@router.post("/nodes/{node_id}/cordon", name="api:nodes:cordon")
def cordon(node_id: str, _who: Admin, db: Db) -> NodeOut:
    """Give a machine nothing new. What runs there goes on."""
    return set_cordon(db, node_id, cordoned=True)


@router.post("/nodes/{node_id}/uncordon", name="api:nodes:uncordon")
def uncordon(node_id: str, _who: Admin, db: Db) -> NodeOut:
    """Let a machine have work again."""
    return set_cordon(db, node_id, cordoned=False)


def set_cordon(db: Db, node_id: str, *, cordoned: bool) -> NodeOut:
    if service.cordon(db, node_id, cordoned) is None:
        raise NotFound(N_("There is no such node."))
    db.flush()
    return next(node for node in nodes(db) if node.id == node_id)


def nodes(db: Db) -> list[NodeOut]:
    return [
        NodeOut.model_validate(node | {"devices": [one["name"] for one in node["devices"]]})
        for node in overview.overview(db)["nodes"]
    ]
