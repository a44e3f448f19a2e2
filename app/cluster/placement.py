"""Which devices a request gets: pure, on a picture of what is free.

A whole device needs one that nobody holds. A share needs a device that nobody holds whole
and on which the bytes still fit. All devices of one request are on one node.
"""

from collections import Counter
from dataclasses import dataclass

from app.cluster.tables import Device, Request
from app.errors import N_, Invalid

QUOTA, DEVICES, MEMORY, NODE = "quota", "devices", "memory", "node"


@dataclass
class Slot:
    """A healthy device of a node that may be given work, and what is held on it."""

    device: Device
    used: int = 0  # bytes, those of programs that are not ours included
    holders: int = 0
    whole: bool = False  # somebody holds it alone

    @property
    def free(self) -> int:
        return 0 if self.whole else self.device.memory - self.used

    def fits(self, memory: int | None) -> bool:
        if memory is None:
            return self.holders == 0 and self.used == 0
        return not self.whole and memory <= self.free

    def take(self, memory: int | None) -> int:
        """Hold `memory` bytes of it, or all of it; returns the bytes held."""
        self.holders += 1
        self.whole = memory is None
        taken = self.device.memory if memory is None else memory
        self.used += taken
        return taken


def place(slots: list[Slot], request: Request) -> list[Slot] | str:
    """The slots to take, all on one node; or the reason why there are none just now."""
    nodes: dict[str, list[Slot]] = {}
    for slot in slots:
        if matches(slot.device, request):
            nodes.setdefault(slot.device.node_id, []).append(slot)
    nodes = {node: found for node, found in nodes.items() if len(found) >= request.devices}
    if not nodes:
        return NODE
    best: tuple[tuple[int, int, str], list[Slot]] | None = None
    for node, found in nodes.items():
        fit = sorted((slot for slot in found if slot.fits(request.memory)), key=tightness)
        if len(fit) < request.devices:
            continue
        chosen = fit[: request.devices]
        # Prefer a node where shares join shares, then the one that is left with least to spare.
        score = (sum(slot.holders == 0 for slot in chosen), len(fit), node)
        if best is None or score < best[0]:
            best = (score, chosen)
    if best:
        return best[1]
    open_ = max(sum(not slot.whole for slot in found) for found in nodes.values())
    return MEMORY if request.memory is not None and open_ >= request.devices else DEVICES


def matches(device: Device, request: Request) -> bool:
    if request.node_id and device.node_id != request.node_id:
        return False
    if request.devices > 1 and "slice" in (device.facts or {}):
        return False  # CUDA lets a program see one slice of a card, never two
    return request.kind is None or device.kind == request.kind


def tightness(slot: Slot) -> tuple[int, int, str]:
    """Best fit first: a device already shared, then the fullest; whole ones stay whole."""
    return (slot.holders == 0, slot.free, slot.device.name)


def refuse_impossible(request: Request, most: int | None, known: list[Device]) -> None:
    """Raises Invalid, naming what could be granted. `most` is the workspace's quota (None: no
    limit); `known` are all devices of living nodes, largest first.
    """
    if request.devices < 1:
        raise Invalid(N_("At least one device is needed."), field="devices")
    if most == 0:
        raise Invalid(
            N_("This workspace's quota is 0 devices. Ask a platform administrator to raise it."),
            code="quota",
            field="devices",
        )
    if most is not None and request.devices > most:
        raise Invalid(
            N_(
                "This workspace may hold %(most)s devices at once, so %(devices)s can never "
                "be granted. Ask for %(most)s at most."
            ),
            code="quota",
            field="devices",
            devices=request.devices,
            most=most,
        )
    if not known:
        return  # no node has reported yet: it waits
    able = [device for device in known if matches(device, request)]
    if not able:
        raise Invalid(
            N_("No node has a device of this kind. There are: %(kinds)s."),
            code="devices",
            field="devices",
            kinds=", ".join(sorted({device.kind for device in known})),
        )
    per_node = Counter(device.node_id for device in able)
    if request.devices > max(per_node.values()):
        raise Invalid(
            N_(
                "No node has %(devices)s devices. The largest has %(most)s: "
                "ask for %(most)s at most."
            ),
            code="devices",
            field="devices",
            devices=request.devices,
            most=max(per_node.values()),
        )
    if request.memory is None:
        return
    room = max(nth_memory(able, node, request.devices) for node in per_node)
    if request.memory > room:
        raise Invalid(
            N_(
                "This needs %(need)s GiB of memory on each device, but no device has more than "
                "%(most)s GiB."
            ),
            code="memory",
            field="devices",
            need=f"{request.memory / 2**30:.1f}",
            most=f"{room / 2**30:.1f}",
        )


def nth_memory(devices: list[Device], node_id: str, count: int) -> int:
    """The most that `count` devices of the node have each; `devices` are largest first."""
    sizes = [device.memory for device in devices if device.node_id == node_id]
    return sizes[count - 1] if len(sizes) >= count else 0
