"""This node's disk: told with each heartbeat, and below its floor training stops with a checkpoint.

The node gets nothing new meanwhile, so what was stopped waits, here or elsewhere, and goes on by
itself when there is room again: more than the floor by a fifth, so that it does not flutter.
"""

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from app.accounts import platform
from app.config import settings
from app.errors import N_
from app.jobs import runs as jobs
from app.jobs import states
from app.queue import transaction
from workers import runs

log = structlog.get_logger()

AGAIN = 1.2  # times the floor
ROOM = 256 * 2**20  # bytes: with less, a checkpoint would not fit, and stopping would lose the run
LOW = N_(
    "The disk of node %(node)s is nearly full. It saves a checkpoint, and goes on when there is room."
)


@dataclass
class Disk:
    """What the last look found. `told`: the database knows, so nothing new comes here."""

    low: bool = False
    told: bool = False
    has_room: bool = False


disk = Disk()
stored: dict[str, int] = {}  # bytes below parts of the home, as `measure` found them last


def look() -> dict[str, Any]:
    """{total, free, floor: bytes, low} of the home's disk, for the heartbeat."""
    found = shutil.disk_usage(settings.home)
    floor = wanted().floor(found.total)
    low = found.free < floor * (AGAIN if disk.low else 1)
    if low != disk.low:
        log.warning("disk", low=low, free=found.free, floor=floor)
    disk.has_room = found.free > ROOM
    disk.told, disk.low = low and disk.low, low  # told once a heartbeat with it is committed
    return {"total": found.total, "free": found.free, "floor": floor, "low": low}


def measure() -> None:
    """How much the cache and what is under way take; seconds with many files, so now and then."""
    for name, place in (("cache", settings.cache), ("uploads", settings.uploads)):
        stored[name] = sum(size(path) for path in place.rglob("*"))


def size(path: Path) -> int:
    """Bytes of a file that stands in no second place; of one that does, its part."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return 0
    return facts.st_size // facts.st_nlink if stat.S_ISREG(facts.st_mode) else 0


def wanted() -> platform.Disk:
    """The platform's setting; a node that joined from elsewhere does not read it, and has the default."""
    if settings.server:
        return platform.Disk()
    with transaction() as db:
        return platform.read(db).disk


def tick(node_id: str) -> None:
    """Stop what trains here while the disk is low; engines write little and go on."""
    if not (disk.low and disk.told and disk.has_room):
        return
    with transaction() as db:
        active = [
            job for job in jobs.active_on(db, node_id) if job.state in ("scheduled", "running")
        ]
        for job in active if not settings.server else ():
            states.note(db, job, "disk", LOW, {"node": node_id})
    if active:
        runs.drain(node_id)
