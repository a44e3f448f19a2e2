"""What `/api/v1/devices` answers."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class Holder(BaseModel):
    """A job or a replica that holds a device, or a share of `bytes` of it."""

    owner_kind: str
    owner_id: str
    workspace_id: str
    workspace: str
    bytes: int
    exclusive: bool
    since: datetime


class DeviceOut(BaseModel):
    """`used` and `memory` are bytes. `holders` are all for a platform admin, else one's own."""

    id: str
    name: str
    node: str
    node_state: str
    kind: str
    model: str
    memory: int
    used: int
    healthy: bool
    state: str  # free, shared or held
    holders: list[Holder]


class Devices(BaseModel):
    """Every device of every node."""

    data: list[DeviceOut]
    has_more: bool = False


class NodeOut(BaseModel):
    """A machine. `state` is ready, cordoned, unreachable or dead; `devices` are their names."""

    id: str
    host: str
    state: str
    seen_at: datetime
    facts: dict[str, Any]
    devices: list[str]


class Nodes(BaseModel):
    """Machines by name."""

    data: list[NodeOut]
    has_more: bool = False


class WaitingOut(BaseModel):
    """Something that waits for devices. `memory` is in bytes on each, null for whole devices;
    `reason` says what it waits for: new, quota, devices, memory or node.
    """

    owner_kind: str
    owner_id: str
    workspace_id: str
    workspace: str
    devices: int
    memory: int | None
    reason: str
    since: datetime


class Waiting(BaseModel):
    """What waits for devices, the longest first."""

    data: list[WaitingOut]
    has_more: bool = False
