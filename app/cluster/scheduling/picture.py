"""What a `Board` is made of: nodes with their devices, who holds them until when, who waits.

Times are seconds since the epoch; a time without end is `NEVER`.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

NEVER = inf
Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, eq=False, slots=True)
class Pool:
    """Which devices would do. None: any. Equal ones are one object: see `pool`."""

    kind: str | None = None  # cpu or cuda
    model: str | None = None
    node: str | None = None
    labels: Labels = frozenset()  # that the node must have


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """What is asked for: so many devices of one node, whole ones or `memory` bytes on each. Equal
    ones are one object, so that what was found out about one is quickly found for all.
    """

    devices: int
    memory: int | None
    pool: Pool


@lru_cache(maxsize=65536)
def pool(
    kind: str | None = None,
    model: str | None = None,
    node: str | None = None,
    labels: Labels = frozenset(),
) -> Pool:
    return Pool(kind, model, node, labels)


@lru_cache(maxsize=65536)
def shape(
    devices: int,
    memory: int | None = None,
    kind: str | None = None,
    model: str | None = None,
    node: str | None = None,
    labels: Labels = frozenset(),
) -> Shape:
    return Shape(devices, memory, pool(kind, model, node, labels))


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
    key: tuple[int, bool, float, str] = (0, False, 0.0, "")  # its place in its workspace's line


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

    def __init__(
        self,
        id: str,  # noqa: A002
        devices: list[Device],
        *,
        usable: bool = True,
        labels: Labels = frozenset(),
    ) -> None:
        self.id = id
        self.usable = usable
        self.labels = labels
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
        self._open: int | None = None
        self.fresh = 0.0  # when the last of those who may make room began, or was saved

    def unheld(self) -> list[Device]:
        """Devices that nobody holds, the smallest first."""
        if self._free is None:
            self._free = [one for one in self.devices if not one.holders]
        return self._free

    def free(self, pool: Pool, *, others: bool = False) -> list[Device]:
        """Devices that nobody holds, the smallest first; those with programs of `others` too."""
        found = self.unheld()
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

    def open(self) -> int:
        """How many of its devices nobody holds whole."""
        if self._open is None:
            self._open = sum(not one.whole for one in self.devices)
        return self._open

    def open_to(self, pool: Pool) -> bool:
        """Whether it has any device of the pool, and may be given work."""
        return (
            self.usable
            and (pool.node is None or pool.node == self.id)
            and pool.labels <= self.labels
            and any(
                (pool.kind is None or pool.kind == kind)
                and (pool.model is None or pool.model == model)
                for kind, model in self.pools
            )
        )
