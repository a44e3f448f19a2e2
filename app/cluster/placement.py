"""What could never be granted is refused at once, with what could be."""

from collections import Counter

from app.cluster.labels import fits, written
from app.cluster.tables import Device, Request
from app.errors import N_, Invalid


def matches(device: Device, request: Request) -> bool:
    if request.node_id and device.node_id != request.node_id:
        return False
    if request.model and device.model != request.model:
        return False
    if request.devices > 1 and "slice" in (device.facts or {}):
        return False  # CUDA lets a program see one slice of a card, never two
    return request.kind is None or device.kind == request.kind


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
            quota="devices",
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
            quota="devices",
        )
    if not known:
        return  # no node has reported yet: it waits
    if request.model and all(device.model != request.model for device in known):
        raise Invalid(
            N_("No node has a device of this model. There are: %(models)s."),
            code="devices",
            field="device_model",
            models=", ".join(sorted({device.model for device in known if device.model})),
        )
    labelled = [device for device in known if fits(device.node.labels, request.labels or {})]
    if not labelled:
        raise Invalid(
            N_("No node has the labels %(labels)s."),
            code="labels",
            field="labels",
            labels=written(request.labels),
        )
    known = labelled
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
