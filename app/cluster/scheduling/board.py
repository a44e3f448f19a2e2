"""What the decision looks at: all nodes, who holds what, who waits.

Pure and kept up to date in small steps, so that a decision need not look at everything again.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from operator import attrgetter

from app.cluster.scheduling.index import Index
from app.cluster.scheduling.picture import Device, Holder, Labels, Node, Pool, Waiting

HALF_LIFE = 24 * 3600.0  # seconds, after which a device-second counts half in the fair share
KEY = attrgetter("key")


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


@dataclass(eq=False, slots=True)
class Line:
    """Those who wait of a workspace, in their order, as it is until one of them `rises`."""

    ones: list[Waiting]
    rises: float
    owed: bool
    fresh: list[Waiting] = field(default_factory=list)  # not in their place yet

    def remove(self, one: Waiting) -> None:
        if one in self.fresh:
            self.fresh.remove(one)
        else:
            del self.ones[bisect_left(self.ones, one.key, key=KEY)]


class Board:
    """All nodes and all who wait. `place`, `leave`, `submit` and `withdraw` change it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.holders: dict[str, Holder] = {}
        self.waiting: dict[str, Waiting] = {}
        self.queues: dict[str, dict[str, Waiting]] = defaultdict(dict)  # by workspace
        self.lines: dict[str, Line] = {}  # of a workspace: see order.py
        self.leaving: dict[str, str] = {}  # who was told to make room → for whom
        self.held: Counter[tuple[str, str, str]] = Counter()  # workspace, user or "", model or ""
        self.jobs: Counter[tuple[str, str]] = Counter()  # that run: workspace, user or ""
        self.use: dict[str, Use] = defaultdict(Use)
        self.rearranged()

    # -- nodes ---------------------------------------------------------------------------

    def put(self, node: Node, holders: list[tuple[Holder, list[Device], list[int]]]) -> None:
        """A node as it is now, with who holds what there: (holder, devices, bytes on each)."""
        self.remove(node.id)
        self.nodes[node.id] = node
        self.rearranged()
        for holder, devices, sizes in holders:
            self.hold(holder, devices, sizes)

    def remove(self, node_id: str) -> None:
        if node := self.nodes.get(node_id):
            for holder in list(node.holders.values()):
                self.leave(holder.id)
            del self.nodes[node_id]
            self.rearranged()

    def use_only(self, unusable: set[str]) -> None:
        """All nodes may be given work, save these."""
        for node in self.nodes.values():
            if node.usable == (node.id in unusable):
                node.usable = not node.usable
                self.rearranged()

    def label(self, labels: dict[str, Labels]) -> None:
        """These nodes have labels, the others none."""
        for node in self.nodes.values():
            if node.labels != (found := labels.get(node.id, frozenset())):
                node.labels = found
                self.rearranged()

    def rearranged(self) -> None:
        """There are other nodes than before, or other devices."""
        self.pools: dict[Pool, list[Node]] = {}
        self.most: dict[tuple[Pool, bool, int | None], int] = {}  # see decision.py
        self._size: int | None = None
        self._index: Index | None = None

    def index(self) -> Index:
        if self._index is None:
            self._index = Index(self.nodes.values())
        return self._index

    def touch(self, node: Node) -> None:
        """Who holds it, or until when, is another thing now."""
        node.changed()
        if self._index is not None:
            self._index.touched.add(node.id)

    def of(self, pool: Pool) -> list[Node]:
        """Nodes that may be given work and have devices of the pool, the last name first."""
        found = self.pools.get(pool)
        if found is None:
            ids = sorted(self.nodes, reverse=True) if pool.node is None else [pool.node]
            nodes = (self.nodes[id_] for id_ in ids if id_ in self.nodes)
            found = self.pools[pool] = [node for node in nodes if node.open_to(pool)]
        return found

    def size(self) -> int:
        """Devices of nodes that may be given work."""
        if self._size is None:
            self._size = sum(len(node.devices) for node in self.nodes.values() if node.usable)
        return self._size

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
        self.hold(holder, devices, sizes)
        return holder

    def hold(self, holder: Holder, devices: list[Device], sizes: list[int]) -> None:
        """It has so many bytes of each."""
        holder.devices = devices
        node = self.nodes[devices[0].node]
        for device, size in zip(devices, sizes, strict=True):
            device.holders.append(holder)
            device.used += size
            device.whole = device.whole or holder.memory is None
        node.holders[holder.id] = holder
        self.touch(node)
        self.holders[holder.id] = holder
        if holder.leaving:
            self.leaving[holder.id] = holder.leaving
        self._count(holder, 1)

    def tell(self, holder: Holder, waiter: str) -> None:
        """It must make room for the request `waiter`; empty: it need not."""
        if waiter:
            self.leaving[holder.id] = waiter
        else:
            self.leaving.pop(holder.id, None)
        holder.leaving = waiter
        self.touch(self.nodes[holder.devices[0].node])

    def leave(self, request_id: str) -> None:
        """It gives back what it holds."""
        holder = self.holders.pop(request_id, None)
        if holder is None:
            return
        self.leaving.pop(request_id, None)
        node = self.nodes[holder.devices[0].node]
        for device in holder.devices:
            device.holders.remove(holder)
            size = device.memory if holder.memory is None else holder.memory
            device.used = max(0, device.used - size) if device.holders else 0
            device.whole = any(one.memory is None for one in device.holders)
        del node.holders[holder.id]
        self.touch(node)
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
        if line := self.lines.get(one.workspace):
            line.fresh.append(one)

    def withdraw(self, request_id: str) -> None:
        if one := self.waiting.pop(request_id, None):
            del self.queues[one.workspace][request_id]
            if line := self.lines.get(one.workspace):
                line.remove(one)
            if not self.queues[one.workspace]:
                del self.queues[one.workspace]
                self.lines.pop(one.workspace, None)

    def resort(self, workspace: str) -> None:
        """Something that gives one of its requests its place has changed."""
        self.lines.pop(workspace, None)
