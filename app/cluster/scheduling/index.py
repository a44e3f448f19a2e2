"""Which nodes have something to give, and which will have it first: kept up to date in small steps.

A large cluster is nearly full nearly always. A decision then looks at the few nodes with free or
shared devices, and at the first of those that will be free, instead of at all.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from app.cluster.scheduling.picture import NEVER, Node

Entry = tuple[float, int]  # when so many devices are expected back together, and the node's rank


class Index:
    """Of nodes that may be given work, each at its rank: the last name first."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = sorted((one for one in nodes if one.usable), key=lambda one: one.id)[::-1]
        self.ranks = {node.id: rank for rank, node in enumerate(self.nodes)}
        self.vacant: set[int] = set()  # with devices that nobody holds
        self.sharing: set[int] = set()  # with devices of which shares are held
        self.odd = {rank for rank, node in enumerate(self.nodes) if node.odd}
        self.ends: dict[int, list[Entry]] = {}  # by how many devices
        self.had: dict[int, dict[int, Entry]] = {}  # the same of each rank
        self.touched = set(self.ranks)

    def renew(self) -> None:
        """Where something was taken or given back."""
        for id_ in self.touched:
            if (rank := self.ranks.get(id_)) is None:
                continue
            node = self.nodes[rank]
            (self.vacant.add if node.unheld() else self.vacant.discard)(rank)
            (self.sharing.add if node.shared() else self.sharing.discard)(rank)
            for count, line in self.ends.items():
                known, entry = self.had[count].get(rank), entry_of(node, rank, count)
                if known == entry:
                    continue
                if known is not None:
                    del line[bisect_left(line, known)]
                if entry is not None:
                    insort(line, entry)
                    self.had[count][rank] = entry
                else:
                    del self.had[count][rank]
        self.touched.clear()

    def with_room(self, *, shared: bool) -> list[Node]:
        """Those with free devices, or also with shares of devices; the last name first."""
        self.renew()
        ranks = self.vacant | self.sharing if shared else self.vacant
        return [self.nodes[rank] for rank in sorted(ranks)]

    def soonest(self, count: int) -> Iterator[tuple[int, Node]]:
        """Nodes with one sort of devices, and their ranks: first the one of which `count` whole devices
        are expected back together first.
        """
        if count not in self.ends:
            entries = (
                entry_of(node, rank, count) for rank, node in enumerate(self.nodes) if not node.odd
            )
            line = self.ends[count] = sorted(entry for entry in entries if entry is not None)
            self.had[count] = {entry[1]: entry for entry in line}
        self.renew()
        for _, rank in self.ends[count]:
            yield rank, self.nodes[rank]


def entry_of(node: Node, rank: int, count: int) -> Entry | None:
    if node.odd or len(ends := node.ends()) < count or ends[count - 1] == NEVER:
        return None
    return ends[count - 1], rank
