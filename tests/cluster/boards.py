"""Boards for tests of the pure decision, and what must hold on each of them."""

import itertools
from collections import Counter
from typing import Any

from app.cluster.scheduling.board import Board
from app.cluster.scheduling.decision import Decision, decide
from app.cluster.scheduling.order import Share
from app.cluster.scheduling.picture import Device, Node, Waiting, shape
from app.quotas.limits import Limits

GIB = 1024**3
NOW = 1_800_000_000.0
OPEN = Limits()
numbers = itertools.count(1)


def node(
    name: str, devices: int = 8, *, kind: str = "cuda", model: str = "H200", **more: Any
) -> Node:
    each = [
        Device(f"{name}-{number}", name, f"{kind}:{number}", kind, model, 80 * GIB, **more)
        for number in range(devices)
    ]
    return Node(name, each)


def board(*nodes: Node) -> Board:
    made = Board()
    for one in nodes:
        made.put(one, [])
    return made


def wait(
    on: Board,
    devices: int = 1,
    *,
    team: str = "a",
    user: str = "",
    memory: int | None = None,
    priority: int = 1,
    since: float | None = None,
    seconds: float = 3600.0,
    kind: str | None = None,
    model: str | None = None,
    on_node: str | None = None,
    **more: Any,
) -> Waiting:
    number = next(numbers)
    one = Waiting(
        f"r{number:06}",
        team,
        user,
        shape(devices, memory, kind, model, on_node),
        priority,
        NOW - 1000 + number * 1e-3 if since is None else since,
        seconds,
        **more,
    )
    on.submit(one)
    return one


def run(
    on: Board, now: float = NOW, limits: Limits = OPEN, shares: dict[str, Share] | None = None
) -> Decision:
    """Decide, and see that what must hold does."""
    before = {id_: holder.leaving for id_, holder in on.holders.items()}
    made = decide(on, limits, shares or {}, now)
    check(on, limits)
    granted = {one.id for one, _ in made.grants}
    assert not granted & on.waiting.keys()
    for holder, one in made.preemptions:
        assert holder.preemptible
        assert holder.priority < one.priority
        assert not before[holder.id]
        assert one.id in on.waiting
    return made


def granted(made: Decision) -> list[str]:
    return [one.id for one, _ in made.grants]


def check(on: Board, limits: Limits = OPEN) -> None:
    """No device over its memory, none shared that is held whole, each request on one node, no
    limit exceeded; and the counts that are kept in small steps are those of the whole.
    """
    held: Counter[tuple[str, str, str]] = Counter()
    jobs: Counter[tuple[str, str]] = Counter()
    for one in on.nodes.values():
        for device in one.devices:
            sizes = [device.memory if h.memory is None else h.memory for h in device.holders]
            assert sum(sizes) == device.used
            assert device.used + device.taken <= device.memory
            assert device.whole == any(h.memory is None for h in device.holders)
            assert len(sizes) <= 1 or not device.whole
            assert device.kept is None
    for holder in on.holders.values():
        assert len({device.node for device in holder.devices}) == 1
        assert len(set(map(id, holder.devices))) == len(holder.devices)
        for user in {"", holder.user}:
            held[holder.workspace, user, ""] += len(holder.devices)
            jobs[holder.workspace, user] += holder.job
            for device in holder.devices:
                held[holder.workspace, user, device.model] += 1
    assert +held == +on.held
    assert +jobs == +on.jobs
    for (team, user, model), count in held.items():
        ceiling = limits.member(team, user) if user else limits.workspace(team)
        most = ceiling.by_model.get(model) if model else ceiling.devices
        assert most is None or count <= most, (team, user, model)
        assert ceiling.jobs is None or jobs[team, user] <= ceiling.jobs
