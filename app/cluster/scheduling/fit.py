"""Which devices a request gets, and which are kept for one that must wait.

Best fit: shares join shares, and whole devices come from the node that is left with least to spare,
so that large holes stay for those who need them.
"""

from collections.abc import Sequence
from itertools import islice

from app.cluster.scheduling.board import Board
from app.cluster.scheduling.picture import NEVER, Device, Node, Pool, Shape, matches

CLOSER = 8  # nodes that are looked at closely


class Fit:
    """The free devices of a decision, found quickly. In it devices are only taken and kept."""

    def __init__(self, board: Board, now: float) -> None:
        self.now = now
        self.board = board
        self.of = board.of
        self.index = board.index()
        self.buckets: dict[tuple[Pool, bool], dict[int, list[Node]]] = {}
        self.shared: dict[Pool, list[Device]] = {}
        self.small: dict[Pool, int] = {}  # bytes for which there is no device any more
        self.keeping: dict[str, Node] = {}  # nodes with devices that are kept for somebody
        self.latest = 0.0  # until when, at most

    def with_room(self, pool: Pool, *, shared: bool = False) -> list[Node]:
        """Those of them with free devices, or also with shares."""
        if pool.node is not None:
            return self.of(pool)
        return [node for node in self.index.with_room(shared=shared) if node.open_to(pool)]

    # -- whole devices -------------------------------------------------------------------

    def whole(self, shape: Shape) -> list[Device] | None:
        """As many as asked for, none of them kept, on the node with the fewest to spare."""
        pool, count = shape.pool, shape.devices
        key = (pool, count > 1)
        if key not in self.buckets:
            found: dict[int, list[Node]] = {}
            for node in self.with_room(pool):
                if free := self.open(node, pool, count > 1):
                    found.setdefault(len(free), []).append(node)
            self.buckets[key] = found
        buckets = self.buckets[key]
        for size in sorted(size for size in buckets if size >= count):
            bucket = buckets[size]
            while bucket:
                node = bucket[-1]
                devices = self.open(node, pool, count > 1)
                if len(devices) != size:  # some were taken or kept meanwhile
                    bucket.pop()
                    if devices:
                        buckets.setdefault(len(devices), []).append(node)
                if len(devices) >= count:
                    return devices[:count]
        return None

    def open(self, node: Node, pool: Pool, several: bool) -> list[Device]:
        free = node.free(pool)
        if node.id in self.keeping or (several and node.single):
            return [one for one in free if one.kept is None and not (several and one.single)]
        return free

    # -- shares --------------------------------------------------------------------------

    def share(self, shape: Shape) -> list[Device] | None:
        """`memory` bytes on each: where others share already and least is left."""
        memory = shape.memory or 0
        if shape.devices > 1:
            return self.shares(shape, memory)
        if shape.pool not in self.shared:
            self.shared[shape.pool] = [
                device
                for node in reversed(self.with_room(shape.pool, shared=True))
                for device in node.shared()
                if matches(device, shape.pool)
            ]
        best = None
        for device in self.shared[shape.pool]:
            if (
                device.kept is None
                and memory <= device.free
                and (best is None or device.free < best.free)
            ):
                best = device
        if best:
            return [best]
        if memory >= self.small.get(shape.pool, memory + 1):
            return None
        found = self.whole_for(shape, memory)
        if found is None:
            self.small[shape.pool] = memory
        else:
            for shared in self.shared.values():
                shared.extend(found)
        return found

    def whole_for(self, shape: Shape, memory: int) -> list[Device] | None:
        """A device that nobody holds yet, for a share."""
        best: tuple[int, int, Device] | None = None
        for node in reversed(self.with_room(shape.pool)):
            free = node.free(shape.pool, others=True)
            for device in free:
                if memory <= device.room and device.kept is None:
                    if best is None or (device.room, len(free)) < best[:2]:
                        best = (device.room, len(free), device)
                    break
        return [best[2]] if best else None

    def shares(self, shape: Shape, memory: int) -> list[Device] | None:
        best: tuple[tuple[int, int], list[Device]] | None = None
        for node in reversed(self.with_room(shape.pool, shared=True)):
            fit = sorted(
                (
                    device
                    for device in node.devices
                    if device.kept is None and device.fits(memory) and able(device, shape)
                ),
                key=lambda one: (not one.used, one.free),
            )
            chosen = fit[: shape.devices]
            if len(fit) >= shape.devices:
                score = (sum(not one.used for one in chosen), len(fit))
                if best is None or score < best[0]:
                    best = (score, chosen)
        return best[1] if best else None

    # -- holes in front of somebody ------------------------------------------------------

    def before(self, shape: Shape, seconds: float) -> list[Device] | None:
        """Devices that are kept for others, but not before this one would be done."""
        end = self.now + seconds
        if end > self.latest:
            return None
        for node in self.keeping.values():
            if not node.open_to(shape.pool):
                continue
            chosen = [
                device
                for device in node.devices
                if (device.kept is None or end <= device.kept)
                and device.fits(shape.memory)
                and able(device, shape)
            ]
            if len(chosen) >= shape.devices:
                return chosen[: shape.devices]
        return None

    # -- keeping -------------------------------------------------------------------------

    def keep(self, shape: Shape) -> tuple[float, list[Device]] | None:
        """The devices that are expected to be free together first, and when. They are kept until
        then. None if there is no end in sight: then nothing is gained by keeping any.
        """
        best: tuple[float, list[Device]] | None = None
        for node in self.soonest(shape):
            found = self.together(node, shape)
            if found and (best is None or found[0] < best[0]):
                best = found
        if best:
            self.mark(best[1], best[0])
        return best

    def soonest(self, shape: Shape) -> list[Node]:
        """The nodes worth a closer look. When whole devices of a node with one sort of them are free
        together is known; a run that is late makes that a guess, so it is a few.
        """
        pool, index = shape.pool, self.index
        if pool.node is not None:
            return self.of(pool)
        index.renew()
        closer = index.odd | {index.ranks[id_] for id_ in self.keeping}
        if shape.memory is not None:
            closer |= index.sharing
        nodes = [index.nodes[rank] for rank in sorted(closer)]
        found = [node for node in nodes if node.open_to(pool)]
        others = (
            node
            for rank, node in index.soonest(shape.devices)
            if rank not in closer and node.open_to(pool)
        )
        return found + list(islice(others, CLOSER))

    def together(self, node: Node, shape: Shape) -> tuple[float, list[Device]] | None:
        ready = sorted(
            (device.ready(shape.memory, self.now), at)
            for at, device in enumerate(node.devices)
            if device.kept is None and able(device, shape)
        )[: shape.devices]
        if len(ready) < shape.devices or ready[-1][0] == NEVER:
            return None
        return ready[-1][0], [node.devices[at] for _, at in ready]

    def mark(self, devices: Sequence[Device], until: float) -> None:
        for device in devices:
            device.kept = until
        self.latest = max(self.latest, until)
        node = self.board.nodes[devices[0].node]
        self.keeping[node.id] = node

    def forget(self) -> None:
        """The decision is over: what is kept is found anew in the next."""
        for node in self.keeping.values():
            for device in node.devices:
                device.kept = None


def able(device: Device, shape: Shape) -> bool:
    """Whether it would do if nobody held it."""
    return (
        matches(device, shape.pool)
        and not (device.single and shape.devices > 1)
        and (not device.taken if shape.memory is None else shape.memory <= device.room)
    )
