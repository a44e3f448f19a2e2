"""When those who wait may be expected to start: the queue played forward, by the expected ends.

An estimate, and called one wherever it shows: runs end early or late, and others come. Each request
in its order takes the devices of its pool that are expected to be free together first, once the
quotas allow it too. Shares are given the time at which the first device has room.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from app.cluster.scheduling.board import Board
from app.cluster.scheduling.fit import Fit, able
from app.cluster.scheduling.order import Order, Share
from app.cluster.scheduling.picture import NEVER, Pool, Shape, Waiting
from app.quotas.limits import OPEN, Ceiling, Limits

MOST = 500  # of the queue; those behind are told no time and no place


@dataclass(frozen=True)
class Expected:
    """`start` is None where no end is in sight."""

    id: str
    position: int  # in the queue, from 1
    start: float | None


def foresee(
    board: Board, limits: Limits, shares: Mapping[str, Share], now: float, most: int = MOST
) -> list[Expected]:
    """The first `most` of the queue. The board is left as it is."""
    order = Order(board, shares, now)
    ahead = Ahead(board, limits, now)
    found: list[Expected] = []
    for ones in order:
        one = ones[0]
        order.taken = 1
        order.granted(one)
        start = ahead.start(one)
        found.append(Expected(one.id, len(found) + 1, None if start == NEVER else start))
        if len(found) >= most:
            break
    return found


class Allowance:
    """What a workspace or a member holds against a ceiling, and when it will be given back."""

    def __init__(self, board: Board, ceiling: Ceiling, workspace: str, user: str) -> None:
        self.ceiling = ceiling
        self.devices = board.held[workspace, user, ""]
        self.jobs = board.jobs[workspace, user]
        self.ends = [
            (holder.end, len(holder.devices), holder.job)
            for holder in board.holders.values()
            if holder.workspace == workspace and user in ("", holder.user)
        ]
        heapq.heapify(self.ends)

    def since(self, devices: int, job: bool) -> float:
        """When so many more may be held."""
        at = 0.0
        while self.over(devices, job):
            if not self.ends:
                return NEVER
            at, given, was_job = heapq.heappop(self.ends)
            self.devices -= given
            self.jobs -= was_job
        return at

    def over(self, devices: int, job: bool) -> bool:
        most, jobs = self.ceiling.devices, self.ceiling.jobs
        return (most is not None and self.devices + devices > most) or (
            job and jobs is not None and self.jobs >= jobs
        )

    def take(self, one: Waiting, end: float) -> None:
        self.devices += one.shape.devices
        self.jobs += one.job
        heapq.heappush(self.ends, (end, one.shape.devices, one.job))


class Ahead:
    """The cluster as it is expected to become."""

    def __init__(self, board: Board, limits: Limits, now: float) -> None:
        self.board, self.limits, self.now = board, limits, now
        self.fit = Fit(board, now)
        self.times: dict[str, list[tuple[float, int]]] = {}  # of a node: (ready, which device)
        self.heaps: dict[tuple[Pool, int], list[tuple[float, str]]] = {}
        self.shares: dict[Shape, float] = {}
        self.allowances: dict[tuple[str, str], Allowance] = {}

    def start(self, one: Waiting) -> float:
        shape = one.shape
        allowances = self.allowed(one)
        since = max((each.since(shape.devices, one.job) for each in allowances), default=0.0)
        if shape.memory is not None:
            at = max(since, self.share(shape), self.now)
        else:
            at = self.whole(shape, since, one.seconds)
        if at != NEVER:
            for each in allowances:
                each.take(one, at + one.seconds)
        return at

    def allowed(self, one: Waiting) -> list[Allowance]:
        whose = [("", self.limits.workspace(one.workspace))]
        if one.user:
            whose.append((one.user, self.limits.member(one.workspace, one.user)))
        found = []
        for user, ceiling in whose:
            if ceiling == OPEN:
                continue
            key = (one.workspace, user)
            if key not in self.allowances:
                self.allowances[key] = Allowance(self.board, ceiling, *key)
            found.append(self.allowances[key])
        return found

    def share(self, shape: Shape) -> float:
        if shape not in self.shares:
            found = (self.fit.together(node, shape) for node in self.fit.soonest(shape))
            self.shares[shape] = min((one[0] for one in found if one), default=NEVER)
        return self.shares[shape]

    def whole(self, shape: Shape, since: float, seconds: float) -> float:
        """Takes the devices of the node that has them first. Times only grow, so that a heap in
        which they are corrected as they come up is enough.
        """
        key = (shape.pool, shape.devices)
        if key not in self.heaps:
            self.heaps[key] = [
                (self.ready(node.id, shape)[0], node.id) for node in self.fit.of(shape.pool)
            ]
            heapq.heapify(self.heaps[key])
        heap = self.heaps[key]
        while heap:
            known, node_id = heap[0]
            at, chosen = self.ready(node_id, shape)
            if at != known:
                heapq.heapreplace(heap, (at, node_id))
                continue
            if NEVER in (at, since):
                return NEVER
            at = max(at, since, self.now)
            times = self.times[node_id]
            for which in chosen:
                times[which] = (at + seconds, times[which][1])
            return at
        return NEVER

    def ready(self, node_id: str, shape: Shape) -> tuple[float, list[int]]:
        """When so many devices of the node are free together, and which."""
        devices = self.board.nodes[node_id].devices
        if node_id not in self.times:
            self.times[node_id] = [
                (device.ready(None, self.now), at) for at, device in enumerate(devices)
            ]
        times = self.times[node_id]
        fit = sorted((at, which) for at, which in times if able(devices[which], shape))
        if len(fit) < shape.devices:
            return NEVER, []
        first = fit[: shape.devices]
        return first[-1][0], [which for _, which in first]
