"""Clearing up on this node: what has to go of run directories, as the platform says, and of the cache.

What goes is renamed first, so that a kill in the middle leaves no half of a checkpoint that looks whole;
the next look removes what was left. Only one process of the node is at it.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from app import cache, storage
from app.config import settings
from app.deployments import replicas
from app.jobs import retention
from app.jobs.retention import Going, Standing
from app.nodework.asking import do
from app.queue import transaction
from workers import process

log = structlog.get_logger()

RUN = "job_*-*"
GONE = ".gone-"  # begins the name of what is being removed
NEEDED = ("checkpoints", "words", "spec.json", "lock")  # to make a model of a checkpoint
CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})")
DAY = 86400.0


def clear() -> None:
    """Tell what stands here and remove what has to go, stretch by stretch, until nothing has to."""
    settings.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone():
        before: list[Going] = []
        while True:
            finish()
            told = do(retention.told, settings.node, standing())
            if not told.going or told.going == before:
                break
            for one in told.going:
                remove(one)
            before = told.going
        if told.going:
            log.warning("what has to go cannot be removed", jobs=[one.job_id for one in told.going])
        clear_replicas()
        if storage.local_root() is None:
            cache.limit(told.cache_gb)
            cache.make_room(0)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    with (settings.runs / ".clearing").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -- what stands here --------------------------------------------------------------------


def standing() -> list[Standing]:
    """Of each job with a run directory here."""
    found: dict[str, list[Path]] = {}
    for path in settings.runs.glob(RUN):
        found.setdefault(path.name.rpartition("-")[0], []).append(path)
    return [look(job_id, sorted(paths)) for job_id, paths in sorted(found.items())]


def look(job_id: str, runs: list[Path]) -> Standing:
    """A file that attempts share counts once."""
    seen: set[tuple[int, int]] = set()
    steps: dict[int, int] = {}
    others = 0
    for run in runs:
        for place, size in sizes(run, seen):
            match = CHECKPOINT.fullmatch(place[1]) if place[0] == "checkpoints" else None
            if match:
                steps[int(match[1])] = steps.get(int(match[1]), 0) + size
            elif place[0] not in NEEDED:
                others += size
    return Standing(job_id, steps, others)


def sizes(run: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[tuple[str, str], int]]:
    """(the first two names of its path, bytes) of each file."""
    for directory, names, files in os.walk(run):
        inside = Path(directory).relative_to(run).parts
        for name in (*files, *names):
            first, second = (*inside, name, "", "")[:2]
            with contextlib.suppress(FileNotFoundError):
                facts = (Path(directory) / name).lstat()
                if name in names:  # counts for what it stands in, however empty
                    yield (first, second), 0
                elif (facts.st_dev, facts.st_ino) not in seen:
                    seen.add((facts.st_dev, facts.st_ino))
                    yield (first, second), facts.st_size


# -- removing ----------------------------------------------------------------------------


def remove(going: Going) -> None:
    """What the rows do not name any more."""
    for run in settings.runs.glob(f"{going.job_id}-*"):
        if going.whole:
            discard(run)
            continue
        for step in going.steps:
            discard(run / "checkpoints" / f"checkpoint-{step}")
        for path in list(run.iterdir()) if going.others else ():
            if path.name not in NEEDED:
                discard(path)


def discard(path: Path) -> None:
    """In one moment it is there no more; then its bytes go."""
    gone = path.with_name(f"{GONE}{path.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(gone)
        erase(gone)


def finish() -> None:
    """Remove what somebody began to, and was killed."""
    for pattern in (f"{GONE}*", f"{RUN}/{GONE}*", f"{RUN}/checkpoints/{GONE}*"):
        for path in settings.runs.glob(pattern):
            erase(path)


def erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear_replicas() -> None:
    """The directories of replicas that ended a day ago: their logs stand in rows."""
    with transaction() as db:
        used = {process.marker(one.id, one.fence) for one in replicas.active_on(db, settings.node)}
    for path in settings.runs.glob("rep_*-*"):
        if path.name not in used and path.stat().st_mtime < time.time() - DAY:
            discard(path)
