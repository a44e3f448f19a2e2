"""What `/api/v1/devices` answers."""

from datetime import datetime

from pydantic import BaseModel


class Holder(BaseModel):
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
    data: list[DeviceOut]
    has_more: bool = False
