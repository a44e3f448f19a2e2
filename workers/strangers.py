"""Processes on this node's GPUs that are not ours: somebody works beside Danlu, or left something.

Ours carry the marker of a run (`workers.process`). Where a process cannot be seen, because its
number belongs to another namespace of processes (Danlu in a container, the driver outside), it
counts as ours while the device is held and as a stranger's while it is free.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import psutil

from app.config import settings
from workers import process

MOST = 20  # told of one device, the largest first


def mark(
    devices: list[dict[str, Any]], holders: Mapping[str, AbstractSet[str]]
) -> list[dict[str, Any]]:
    """The devices with `taken`, in bytes, for `processes`: 0 below DANLU_STRANGER_MB. Their
    `stats` name the strangers: [{pid, name, memory}].
    """
    found = []
    ours = our_own() if any(device["processes"] for device in devices) else set()
    for device in devices:
        strangers = sorted(
            others(device, ours, bool(holders.get(device["name"]))),
            key=lambda one: one["memory"],
            reverse=True,
        )
        taken = sum(one["memory"] for one in strangers)
        counts = settings.stranger_mb >= 0 and taken > settings.stranger_mb * 2**20
        rest = {key: value for key, value in device.items() if key != "processes"}
        told = {"strangers": strangers[:MOST]} if strangers else {}
        stats = device["stats"] | told
        found.append(rest | {"stats": stats, "taken": taken if counts else 0})
    return found


def our_own() -> set[int]:
    return {member.pid for members in process.attempts().values() for member in members}


def others(device: dict[str, Any], ours: set[int], held: bool) -> Iterator[dict[str, Any]]:
    for one in device["processes"]:
        name = name_of(one["pid"])
        if one["pid"] in ours or (held and not name):
            continue
        memory = one["memory"]
        if memory is None:  # the driver does not say: all that is in use, then
            memory = device["stats"].get("memory", 0)
        yield {"pid": one["pid"], "name": name, "memory": min(memory, device["memory"])}


def name_of(pid: int) -> str:
    """Its program, without its arguments; empty where it cannot be seen."""
    try:
        return psutil.Process(pid).name()[:80]
    except psutil.Error:
        return ""
