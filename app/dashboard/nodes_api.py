"""`/api/v1/nodes`: taking a machine out of use, and back. What runs there knows of it."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.accounts.auth import PLATFORM, Principal, requires
from app.cluster import nodes
from app.cluster.api import told
from app.cluster.overview import node as overview
from app.cluster.schemas import NodeOut
from app.dashboard import devices
from app.queue import Db

router = APIRouter(prefix="/api/v1/nodes", tags=["devices"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


class Drain(BaseModel):
    """`seconds`: how long replicas may wait for another node to take them before they stop."""

    seconds: int = Field(1800, ge=0, le=86_400)


@router.post("/{node_id}/cordon", name="api:nodes:cordon")
def cordon(node_id: str, _who: Admin, db: Db) -> NodeOut:
    """Give a machine nothing new. What runs there goes on."""
    nodes.cordon(db, node_id, cordoned=True)
    db.flush()
    return told(overview(db, node_id))


@router.post("/{node_id}/uncordon", name="api:nodes:uncordon")
def uncordon(node_id: str, _who: Admin, db: Db) -> NodeOut:
    """Let a machine have work again; a drain is called off, and what has not left stays."""
    devices.uncordon(db, node_id)
    db.flush()
    return told(overview(db, node_id))


@router.post("/{node_id}/drain", name="api:nodes:drain")
def drain(node_id: str, _who: Admin, db: Db, body: Drain | None = None) -> NodeOut:
    """Empty a machine: training saves a checkpoint and waits again, replicas leave once another
    stands in for them, or when the time is over. Its state is draining, then drained.
    """
    nodes.drain(db, node_id, (body or Drain()).seconds)
    db.flush()
    return told(overview(db, node_id))
