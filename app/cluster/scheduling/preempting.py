"""Who must make room: the fewest and the cheapest, and only for somebody of a higher priority.

Asked are runs that save a checkpoint. Never anyone of an equal priority, nor anyone who had to
make room `MOST` times already, so that nobody is sent to and fro.
"""

import heapq

from app.cluster.scheduling.board import Board
from app.cluster.scheduling.fit import Fit, able
from app.cluster.scheduling.order import LOW
from app.cluster.scheduling.picture import LEAVING, Device, Holder, Node, Waiting

MOST = 3
CLOSER = 32  # nodes that are looked at closely


def victim(holder: Holder, one: Waiting) -> bool:
    return (
        holder.preemptible
        and holder.priority < one.priority
        and holder.preemptions < MOST
        and not holder.leaving
    )


def room(board: Board, fit: Fit, one: Waiting) -> tuple[list[Holder], list[Device]] | None:
    """Who must leave so that `one` fits, and the devices that it then has."""
    if one.priority == LOW:
        return None
    best: tuple[tuple[int, float, float, str], list[Holder], list[Device]] | None = None
    for node in candidates(fit, one):
        found = on(node, fit, one)
        if found is None:
            continue
        victims, devices = found
        youngest = max(holder.start for holder in victims)
        lost = sum(holder.lost(fit.now) for holder in victims)
        key = (len(victims), lost, -youngest, node.id)
        if best is None or key < best[0]:
            best = (key, victims, devices)
    if best is None:
        return None
    fit.mark(best[2], fit.now + LEAVING)
    for holder in best[1]:
        board.tell(holder, one.id)
    return best[1], best[2]


def candidates(fit: Fit, one: Waiting) -> list[Node]:
    """Nodes where enough could be had: first those with most that is free, then those where the
    least would be lost. So many are looked at closely.
    """
    found = []
    nodes = fit.of(one.shape.pool)
    for at, node in enumerate(nodes):
        soft = node.soft(one.priority)
        free = len(node.free(one.shape.pool)) if soft else 0
        if soft and soft + free >= one.shape.devices:
            found.append((-min(free, one.shape.devices), -node.fresh, at))
    return [nodes[at] for _, _, at in heapq.nsmallest(CLOSER, found)]


def on(node: Node, fit: Fit, one: Waiting) -> tuple[list[Holder], list[Device]] | None:
    """The same on one node: None if even all of them would not do."""
    shape = one.shape
    would_do = [device for device in node.devices if device.kept is None and able(device, shape)]
    ready = [device for device in would_do if device.fits(shape.memory)]
    need = shape.devices - len(ready)
    if need <= 0:
        return None  # a matter of time, not of room
    gain: dict[Holder, list[Device]] = {}
    for device in would_do:
        if device in ready or len(device.holders) != 1:
            continue
        if victim(device.holders[0], one):
            gain.setdefault(device.holders[0], []).append(device)
    if sum(map(len, gain.values())) < need:
        return None
    victims: list[Holder] = []
    devices = list(ready)
    while need > 0:
        chosen = min(  # one that suffices, of those the cheapest; else the largest
            gain,
            key=lambda holder: (
                -min(len(gain[holder]), need),
                holder.lost(fit.now),
                -holder.start,
                holder.id,
            ),
        )
        got = gain.pop(chosen)
        victims.append(chosen)
        devices += got[: max(0, need)]
        need -= len(got)
    return victims, devices[: shape.devices]
