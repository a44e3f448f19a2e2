"""What `/api/v1/devices` and its neighbours take and answer."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import N_


class Holder(BaseModel):
    """A job or a replica that holds a device, or a share of `bytes` of it. `use` is how busy the
    device was, on average, in the `measured` seconds of that time, 0 to 1; `active_at` is when it
    last did anything.
    """

    owner_kind: str
    owner_id: str
    workspace_id: str
    workspace: str
    bytes: int
    exclusive: bool
    since: datetime
    measured: float
    use: float | None
    active_at: datetime | None


class Problem(BaseModel):
    """What speaks against a device: `message` with `params` in its places. A `grave` one makes it
    unhealthy.
    """

    code: str
    grave: bool
    message: str
    params: dict[str, Any]


class Stranger(BaseModel):
    """A program on a GPU that is not Danlu's; `memory` in bytes."""

    pid: int
    name: str
    memory: int


class Stats(BaseModel):
    """The last reading: `use` in percent, `memory` in use in bytes, °C, W. What the device does not
    say is null. `throttle`: what holds its clocks down (power, heat, brake).
    """

    use: float | None = None
    memory: int | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    throttle: list[str] = []
    strangers: list[Stranger] = []


class DeviceOut(BaseModel):
    """`used`, `taken` (by programs that are not Danlu's) and `memory` are bytes. `holders` are all
    for a platform admin, else one's own; `facts` {card, pci, compute, slice} of a GPU.
    """

    id: str
    name: str
    node: str
    node_state: str
    kind: str
    model: str
    uuid: str
    memory: int
    used: int
    taken: int
    healthy: bool
    problems: list[Problem]
    state: str  # free, taken, shared or held
    facts: dict[str, str]
    stats: Stats
    holders: list[Holder]


class Devices(BaseModel):
    """Every device of every node."""

    data: list[DeviceOut]
    has_more: bool = False


class NodeOut(BaseModel):
    """A machine. `state` is ready, cordoned, draining, drained, unreachable or dead; `devices` are
    their names.
    """

    id: str
    host: str
    state: str
    seen_at: datetime
    facts: dict[str, Any]
    labels: dict[str, str]
    cordoned: bool
    drain_since: datetime | None
    drain_until: datetime | None
    devices: list[str]


class Labels(BaseModel):
    """All of a node's labels from now on."""

    labels: dict[str, str]


class Curves(BaseModel):
    """What a device did, one value per point of time in `t`; null: nothing is known. `use` in
    percent, `memory` in bytes, `temperature` in °C, `power` in W: means over `step` seconds.
    """

    use: list[float | None]
    memory: list[float | None]
    temperature: list[float | None]
    power: list[float | None]


class History(BaseModel):
    """The last hour, day, week or 30 days of a node's devices, by name. `t` is in seconds since
    1970, the start of the `step` seconds that a point stands for.
    """

    range: str
    step: int
    t: list[int]
    devices: dict[str, Curves]


class Nodes(BaseModel):
    """Machines by name."""

    data: list[NodeOut]
    has_more: bool = False


class WaitingOut(BaseModel):
    """Something that waits for devices. `memory` is in bytes on each, null for whole devices;
    `reason` says what it waits for: new, quota (devices), model_quota (devices of one model),
    jobs_quota (running jobs), the same of a member (member_…), devices, memory, node, preempting
    or maintenance. `starts_at` is an estimate.
    """

    owner_kind: str
    owner_id: str
    workspace_id: str
    workspace: str
    devices: int
    memory: int | None
    reason: str
    position: int | None
    starts_at: datetime | None
    since: datetime


class Waiting(BaseModel):
    """What waits for devices, the longest first."""

    data: list[WaitingOut]
    has_more: bool = False


PRIORITIES = ("low", "normal", "high")  # that members may be allowed
Weight = Annotated[float, Field(gt=0, le=1000)]


class Share(BaseModel):
    """`weight`: a workspace of 2 is due twice as much of what is short as one of 1. `priority`: the
    highest that its members may give their work; its admins may say high whatever it is.
    """

    workspace: str
    weight: float
    priority: Literal["low", "normal", "high"]


class ShareIn(BaseModel):
    """What is left out stays."""

    model_config = ConfigDict(extra="forbid")

    weight: Weight | None = None
    priority: Literal["low", "normal", "high"] | None = None

    @model_validator(mode="after")
    def something(self) -> "ShareIn":
        if self.weight is None and self.priority is None:
            raise ValueError(N_("Name a weight or a priority."))
        return self


class ShareForm(BaseModel):
    """A row of the administrators' table."""

    weight: Weight
    priority: Literal["low", "normal", "high"]
