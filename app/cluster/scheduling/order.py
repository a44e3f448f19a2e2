"""Who comes first: priority, then fair share over workspaces, then age.

A request that waits rises by a level every `RISE`, up to high, so that nothing waits for ever; one
of a workspace that holds less than half of its share rises as soon as it has waited as long as it
takes (what has no end: ten minutes), since a share would be no promise if the others' priorities
could undo it. What it may displace follows from the priority that it was given, never from its age.
"""

import heapq
from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.cluster.scheduling.board import KEY, Board, Line, decayed
from app.cluster.scheduling.picture import NEVER, Waiting

LOW, NORMAL, HIGH, URGENT = range(4)
RISE = 4 * 3600.0  # seconds of waiting that make up for a level of priority
ENDLESS = 600.0  # seconds that one without an end waits for what is owed to its workspace
LEAST = 0.5  # of its share: a workspace that holds less is owed the rest
AHEAD = 600.0  # seconds for which what is held counts as if it had been used already
PREEMPTING = "preempting"


@dataclass(frozen=True)
class Share:
    """What a workspace is due, and what it has had: device-seconds, decayed up to `at`."""

    weight: float = 1.0
    used: float = 0.0
    at: float = 0.0


EQUAL = Share()


def level(one: Waiting, now: float, *, owed: bool = False) -> int:
    """Its priority, and what waiting has added. What is `owed` to its workspace need not wait for
    the others' longer than it takes.
    """
    if one.priority >= HIGH:
        return one.priority
    if owed and now - one.since > patience(one):
        return HIGH
    return min(HIGH, one.priority + max(0, int((now - one.since) / RISE)))


def score(board: Board, shares: Mapping[str, Share], workspace: str, now: float) -> float:
    """Less comes first: device-seconds had, by weight. What is held counts for a while ahead."""
    share = shares.get(workspace, EQUAL)
    use = board.use[workspace]
    had = decayed(share.used, share.at, now) + use.running(now) + use.devices * AHEAD
    return had / share.weight


def owed(board: Board, shares: Mapping[str, Share]) -> set[str]:
    """The workspaces that wait, and hold less than half of what their weight among all who hold or
    wait for devices would give them.
    """
    weights = {
        name: shares.get(name, EQUAL).weight
        for name in {*board.queues, *(name for name, use in board.use.items() if use.devices)}
    }
    each = LEAST * board.size() / max(sum(weights.values()), 1e-9)
    return {name for name in board.queues if board.use[name].devices < each * weights[name]}


def queue(board: Board, workspace: str, now: float, *, is_owed: bool = False) -> list[Waiting]:
    """Those of a workspace in their order; sorted anew when one of them rises. The list is the
    board's own, which changes it.

    One for whom others were told to make room comes first of its level.
    """
    line = board.lines.get(workspace)
    if line is None or line.owed != is_owed or now >= line.rises:
        ones = list(board.queues[workspace].values())
        for one in ones:
            place(one, now, is_owed)
        ones.sort(key=KEY)
        rises = min((rise(one, is_owed) for one in ones), default=NEVER)
        line = board.lines[workspace] = Line(ones, rises, is_owed)
    for one in line.fresh:
        place(one, now, is_owed)
        insort(line.ones, one, key=KEY)
        line.rises = min(line.rises, rise(one, is_owed))
    line.fresh.clear()
    return line.ones


def place(one: Waiting, now: float, is_owed: bool) -> None:
    one.level = level(one, now, owed=is_owed)
    one.key = (-one.level, one.reason != PREEMPTING, one.since, one.id)


def rise(one: Waiting, is_owed: bool) -> float:
    """When its level is another one."""
    if one.level >= HIGH:
        return NEVER
    rises = one.since + RISE * (one.level - one.priority + 1)
    return min(rises, one.since + patience(one)) if is_owed else rises


def patience(one: Waiting) -> float:
    return ENDLESS if one.seconds == NEVER else one.seconds


class Order:
    """All who wait, one after the other. `granted` puts a workspace back behind the others."""

    def __init__(self, board: Board, shares: Mapping[str, Share], now: float) -> None:
        self.board, self.shares, self.now = board, shares, now
        poor = owed(board, shares)
        self.queues = {
            name: queue(board, name, now, is_owed=name in poor).copy() for name in board.queues
        }
        self.at = dict.fromkeys(self.queues, 0)
        self.scores = {name: score(board, shares, name, now) for name in self.queues}
        self.heap = [self.entry(name) for name in self.queues]
        heapq.heapify(self.heap)

    def entry(self, workspace: str) -> tuple[int, bool, float, float, str]:
        one = self.queues[workspace][self.at[workspace]]
        return (
            -one.level,
            one.reason != PREEMPTING,
            self.scores[workspace],
            one.since,
            workspace,
        )

    def granted(self, one: Waiting) -> None:
        weight = self.shares.get(one.workspace, EQUAL).weight
        self.scores[one.workspace] += one.shape.devices * AHEAD / weight

    def __iter__(self) -> Iterator[list[Waiting]]:
        """Runs of requests of one workspace and level: who takes from the run says how many were
        looked at by setting `taken`; the rest comes again in its turn.
        """
        while self.heap:
            first = self.heap[0]
            name = first[-1]
            ones, start = self.queues[name], self.at[name]
            last = (first[0], first[1], NEVER)
            stop = bisect_right(ones, last, start, key=KEY)
            self.taken = stop - start
            yield ones[start:stop]
            self.at[name] = start + self.taken
            if self.at[name] < len(ones):
                heapq.heapreplace(self.heap, self.entry(name))
            else:
                heapq.heappop(self.heap)
