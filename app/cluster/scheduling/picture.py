"""What the decision looks at: nodes with their devices, who holds them until when, who waits.

Pure and kept up to date in small steps, so that a decision need not look at everything again.
Times are seconds since the epoch; a time without end is `NEVER`.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

NEVER = inf
HALF_LIFE = 24 * 3600.0  # seconds, after which a device-second counts half in the fair share


@dataclass(frozen=True, eq=False, slots=True)
class Pool:
    """Which devices would do. None: any. Equal ones are one object: see `pool`."""

    kind: str | None = None  # cpu or cuda
    model: str | None = None
    node: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """What is asked for: so many devices of one node, whole ones or `memory` bytes on each. Equal
    ones are one object, so that what was found out about one is quickly found for all.
    """

    devices: int
    memory: int | None
    pool: Pool


@lru_cache(maxsize=65536)
def pool(kind: str | None = None, model: str | None = None, node: str | None = None) -> Pool:
    return Pool(kind, model, node)


@lru_cache(maxsize=65536)
def shape(
    devices: int,
    memory: int | None = None,
    kind: str | None = None,
    model: str | None = None,
    node: str | None = None,
) -> Shape:
    return Shape(devices, memory, pool(kind, model, node))


@dataclass(eq=False, slots=True)
class Waiting:
    """A request that has no devices yet."""

    id: str
    workspace: str
    user: str
    shape: Shape
    priority: int
    since: float
    seconds: float = NEVER  # that it will hold its devices
    preemptible: bool = False
    preemptions: int = 0
    job: bool = True  # counts against the limit on running jobs
    reason: str = "new"
    level: int = 0  # its priority, and what waiting has added: see order.py


@dataclass(eq=False, slots=True)
class Holder:
    """A request that was granted."""

    id: str
    workspace: str
    user: str
    priority: int
    start: float
    end: float  # expected
    memory: int | None = None
    preemptible: bool = False
    preemptions: int = 0
    job: bool = True
    saved: float = 0.0  # its last checkpoint, or 0
    leaving: str = ""  # it was told to make room for this request
    devices: list["Device"] = field(default_factory=list)

    def lost(self, now: float) -> float:
        """Device-seconds of work that would have to be done again."""
        return (now - max(self.start, self.saved)) * len(self.devices)

    def ends(self, now: float) -> float:
        """When its devices are expected back. One that is late is given a tenth of its time more."""
        if self.leaving:
            return now + LEAVING
        return self.end if self.end > now else now + max(60.0, (now - self.start) / 10)


LEAVING = 60.0  # seconds that a run is given to save a checkpoint and to go


@dataclass(eq=False, slots=True)
class Device:
    """`taken` bytes are used by programs that are not ours. A `single` one is never one of several."""

    id: str
    node: str
    name: str
    kind: str
    model: str
    memory: int
    taken: int = 0
    single: bool = False
    used: int = 0  # bytes, those of holders
    whole: bool = False  # somebody holds it alone
    holders: list[Holder] = field(default_factory=list)
    kept: float | None = None  # in this decision: for somebody who is expected to need it then

    @property
    def room(self) -> int:
        """Bytes that could be had if nobody held it."""
        return self.memory - self.taken

    @property
    def free(self) -> int:
        return 0 if self.whole else self.room - self.used

    def fits(self, memory: int | None) -> bool:
        if memory is None:
            return not self.holders and not self.taken
        return not self.whole and memory <= self.free

    def ready(self, memory: int | None, now: float) -> float:
        """When a whole device, or so many bytes of it, are expected to be free."""
        if memory is None:
            if self.taken:
                return NEVER
            return max((holder.ends(now) for holder in self.holders), default=now)
        if self.fits(memory):
            return now
        if memory > self.room:
            return NEVER
        held = [
            (one.ends(now), self.memory if one.memory is None else one.memory)
            for one in self.holders
        ]
        free = self.room - sum(size for _, size in held)
        for end, size in sorted(held):
            free += size
            if free >= memory:
                return end
        return NEVER


def matches(device: Device, pool: Pool) -> bool:
    return (pool.kind is None or device.kind == pool.kind) and (
        pool.model is None or device.model == pool.model
    )


class Node:
    """A node that may be given work, or not (`usable`)."""

    def __init__(self, id: str, devices: list[Device], *, usable: bool = True) -> None:  # noqa: A002
        self.id = id
        self.usable = usable
        self.devices = sorted(devices, key=lambda one: (one.memory, one.name))
        self.holders: dict[str, Holder] = {}
        self.pools = {(one.kind, one.model) for one in devices}
        self.taken = any(one.taken for one in devices)
        self.single = any(one.single for one in devices)
        self.odd = (
            len({(one.kind, one.model, one.memory) for one in devices}) != 1
            or self.taken
            or self.single
        )
        self.changed()

    def changed(self) -> None:
        self._free: list[Device] | None = None
        self._soft: list[int] | None = None
        self._ends: list[float] | None = None
        self._shared: list[Device] | None = None
        self.fresh = 0.0  # when the last of those who may make room began, or was saved

    def free(self, pool: Pool, *, others: bool = False) -> list[Device]:
        """Devices that nobody holds, the smallest first; those with programs of `others` too."""
        if self._free is None:
            self._free = [one for one in self.devices if not one.holders]
        found = self._free
        if found and len(self.pools) > 1:
            found = [one for one in found if matches(one, pool)]
        if others or not self.taken:
            return found
        return [one for one in found if not one.taken]

    def soft(self, priority: int) -> int:
        """Devices whose only holders may be told to make room for somebody of this priority."""
        if self._soft is None:
            self._soft = [0, 0, 0, 0]
            for holder in self.holders.values():
                if holder.preemptible and not holder.leaving:
                    self.fresh = max(self.fresh, holder.start, holder.saved)
                    for above in range(holder.priority + 1, 4):
                        self._soft[above] += len(holder.devices)
        return self._soft[priority]

    def ends(self) -> list[float]:
        """When each whole device is expected back, the first first; 0 for one that is free."""
        if self._ends is None:
            self._ends = sorted(
                NEVER
                if device.taken
                else max((1.0 if one.leaving else one.end for one in device.holders), default=0.0)
                for device in self.devices
            )
        return self._ends

    def shared(self) -> list[Device]:
        """Devices of which shares are held."""
        if self._shared is None:
            self._shared = [one for one in self.devices if one.used and not one.whole]
        return self._shared

    def open_to(self, pool: Pool) -> bool:
        """Whether it has any device of the pool, and may be given work."""
        return (
            self.usable
            and (pool.node is None or pool.node == self.id)
            and any(
                (pool.kind is None or pool.kind == kind)
                and (pool.model is None or pool.model == model)
                for kind, model in self.pools
            )
        )


class Use:
    """What a workspace has of the devices just now, and how much that adds to its fair share."""

    def __init__(self) -> None:
        self.devices = 0
        self.weight = 0.0  # of the starts: see `running`

    def add(self, start: float, devices: int) -> None:
        self.devices += devices
        self.weight += devices * 2.0 ** ((start - EPOCH) / HALF_LIFE)

    def running(self, now: float) -> float:
        """Device-seconds of what is held, decayed as if each had been given back when it passed:
        the integral of 2^(-t/H) over each lease's age.
        """
        if not self.devices:
            return 0.0
        grown = self.devices - self.weight * 2.0 ** ((EPOCH - now) / HALF_LIFE)
        return float(max(0.0, grown) * HALF_LIFE / 0.6931471805599453)


EPOCH = 1_767_225_600.0  # 2026: near enough for powers of two to be small


def decayed(device_seconds: float, since: float, now: float) -> float:
    return float(device_seconds * 2.0 ** (-max(0.0, now - since) / HALF_LIFE))


class Board:
    """All nodes and all who wait. `place`, `leave`, `submit` and `withdraw` change it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.holders: dict[str, Holder] = {}
        self.waiting: dict[str, Waiting] = {}
        self.queues: dict[str, dict[str, Waiting]] = defaultdict(dict)  # by workspace
        self.sorted: dict[str, tuple[float, list[Waiting]]] = {}  # see order.py
        self.held: Counter[tuple[str, str, str]] = Counter()  # workspace, user or "", model or ""
        self.jobs: Counter[tuple[str, str]] = Counter()  # that run: workspace, user or ""
        self.use: dict[str, Use] = defaultdict(Use)

    # -- nodes ---------------------------------------------------------------------------

    def put(self, node: Node, holders: list[tuple[Holder, list[Device], list[int]]]) -> None:
        """A node as it is now, with who holds what there: (holder, devices, bytes on each)."""
        self.remove(node.id)
        self.nodes[node.id] = node
        for holder, devices, sizes in holders:
            self._hold(holder, devices, sizes)

    def remove(self, node_id: str) -> None:
        if node := self.nodes.get(node_id):
            for holder in list(node.holders.values()):
                self.leave(holder.id)
            del self.nodes[node_id]

    # -- holders -------------------------------------------------------------------------

    def place(self, one: Waiting, devices: list[Device], now: float) -> Holder:
        """`one` gets the devices."""
        holder = Holder(
            one.id,
            one.workspace,
            one.user,
            one.priority,
            now,
            now + one.seconds,
            one.shape.memory,
            one.preemptible,
            one.preemptions,
            one.job,
        )
        self.withdraw(one.id)
        memory = one.shape.memory
        sizes = [device.memory if memory is None else memory for device in devices]
        self._hold(holder, devices, sizes)
        return holder

    def _hold(self, holder: Holder, devices: list[Device], sizes: list[int]) -> None:
        holder.devices = devices
        for device, size in zip(devices, sizes, strict=True):
            device.holders.append(holder)
            device.used += size
            device.whole = device.whole or holder.memory is None
        node = self.nodes[devices[0].node]
        node.holders[holder.id] = holder
        node.changed()
        self.holders[holder.id] = holder
        self._count(holder, 1)

    def leave(self, request_id: str) -> None:
        """It gives back what it holds."""
        holder = self.holders.pop(request_id, None)
        if holder is None:
            return
        for device in holder.devices:
            device.holders.remove(holder)
            size = device.memory if holder.memory is None else holder.memory
            device.used = max(0, device.used - size) if device.holders else 0
            device.whole = any(one.memory is None for one in device.holders)
        node = self.nodes[holder.devices[0].node]
        del node.holders[holder.id]
        node.changed()
        self._count(holder, -1)

    def _count(self, holder: Holder, sign: int) -> None:
        size = sign * len(holder.devices)
        for user in {"", holder.user}:
            self.held[holder.workspace, user, ""] += size
            for device in holder.devices:
                self.held[holder.workspace, user, device.model] += sign
            self.jobs[holder.workspace, user] += sign * holder.job
        self.use[holder.workspace].add(holder.start, size)

    # -- who waits -----------------------------------------------------------------------

    def submit(self, one: Waiting) -> None:
        self.waiting[one.id] = one
        self.queues[one.workspace][one.id] = one
        self.sorted.pop(one.workspace, None)

    def withdraw(self, request_id: str) -> None:
        if one := self.waiting.pop(request_id, None):
            del self.queues[one.workspace][request_id]
            if not self.queues[one.workspace]:
                del self.queues[one.workspace]
            self.sorted.pop(one.workspace, None)
