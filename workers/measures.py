"""Measures on this node: one at a time, niced, in a detached process that needs no device.

Called by the node's loop, which may die at any moment: what to do next is read from the row, the
run directory and the process table, as with jobs.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from app import storage
from app.config import ROOT, settings
from app.datasets.measures import service as measures
from app.datasets.measures import tasks
from app.datasets.measures.tasks import Task
from app.datasets.tables import DatasetMeasure
from app.errors import N_, DomainError
from app.nodework.asking import do
from app.queue import transaction
from workers import process
from workers.outbox import read_status
from workers.stages.measure import MeasureSpec
from workers.starting import directory_of, draining

log = structlog.get_logger()

NICE = 15  # below trainers, which are below the console
GRACE = 2.0  # seconds: nothing of it is worth keeping
NOTE_EVERY = 2.0  # seconds between two notes of the progress
TIDY_EVERY = 30.0
LOOK_AWAY = 3.0  # seconds between two questions to a platform elsewhere
KEPT = 24 * 3600  # seconds: the directory of a failed one tells more

noted: dict[str, float] = {}  # when the progress of which attempt was last written
tidied = -TIDY_EVERY
looked = 0.0  # when we last asked whether there is something to measure


def tick(node_id: str) -> None:
    """One look at what this node measures; the next is taken once there is nothing."""
    global looked, tidied
    if time.monotonic() - tidied > TIDY_EVERY:
        do(measures.tidy)
        tidied = time.monotonic()
    active = mine(node_id)
    waited = time.monotonic() - looked > LOOK_AWAY or not settings.server
    if not active and waited and not draining().exists():
        looked = time.monotonic()
        if do(measures.take, node_id):
            active = mine(node_id)
    for one in active:
        try:
            look_after(one)
        except (OperationalError, InterfaceError):
            raise
        except Exception as trouble:
            log.exception("cannot measure", measure=one.id)
            do(measures.finish, one.id, one.fence, error=cannot(trouble))
    for attempt in noted.keys() - {process.marker(one.id, one.fence) for one in active}:
        del noted[attempt]


def mine(node_id: str) -> list[DatasetMeasure]:
    with transaction() as db:
        return measures.active_on(db, node_id)


def look_after(one: DatasetMeasure) -> None:
    directory = directory_of(one.id, one.fence)
    task = do(tasks.find, one.id)
    if task is None:
        give_up(one, directory)
        return
    if one.pid is None or one.pid_started is None:
        start(one, directory, task)
    elif process.alive(one.pid, one.pid_started):
        attempt = process.marker(one.id, one.fence)
        if time.monotonic() - noted.get(attempt, -NOTE_EVERY) >= NOTE_EVERY:
            noted[attempt] = time.monotonic()
            status = read_status(directory) or {}
            share = status.get("step", 0) / max(1, status.get("total", 0))
            do(measures.note, one.id, one.fence, share)
    else:
        end(one, directory)


# -- starting ----------------------------------------------------------------------------


def start(one: DatasetMeasure, directory: Path, task: Task) -> None:
    """Start the attempt, or find the process that was started by whoever died before us."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / "spec.json").exists():
        storage.hold(process.marker(one.id, one.fence), [task.model, *task.segments])
        spec = MeasureSpec(
            measure_id=one.id,
            fence=one.fence,
            model=str(measures.words_of(task.model)),
            kind=task.kind,
            rows=task.rows,
            segments=[str(storage.fetch(segment)) for segment in task.segments],
            edits=write_edits(one, directory),
        )
        partial = directory / "spec.json.partial"
        partial.write_text(spec.model_dump_json(indent=2))
        partial.rename(directory / "spec.json")
    if do(tasks.find, one.id) is None:  # the draft may have been edited while we read its edits
        return
    found = process.start(
        [sys.executable, "-m", "workers.stages.measure", directory],
        cwd=ROOT,
        env=process.environment(
            one.id, one.fence, TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1"
        ),
        log=directory / "log",
        pidfile=directory / "pid",
        nice=NICE,
    )
    wanted = do(measures.mark_started, one.id, one.fence, *found)
    log.info("measuring", measure=one.id, fence=one.fence, pid=found.pid, wanted=wanted)
    if not wanted:
        process.stop(*found, GRACE, process.marker(one.id, one.fence))


def write_edits(one: DatasetMeasure, directory: Path) -> str | None:
    """A draft's edits, [place, rank, row or null] in order, one a line; None without any."""
    path, start = directory / "edits.jsonl", 0
    with path.open("wb") as file:
        while part := do(tasks.edits, one.id, start):
            start += len(part)
            for place, rank, row in part:
                file.write(b"[%d,%b,%b]\n" % (place, orjson.dumps(rank), row or b"null"))
    return str(path) if start else None


# -- the end -----------------------------------------------------------------------------


def stop(one: DatasetMeasure) -> bool:
    """Whether nothing of it is left."""
    marker = process.marker(one.id, one.fence)
    if one.pid is None or one.pid_started is None:
        return process.stop_attempt(one.id, one.fence, GRACE)
    return process.stop(one.pid, one.pid_started, GRACE, marker)


def give_up(one: DatasetMeasure, directory: Path) -> None:
    """The version is deleted, or is no longer what was to be measured."""
    if stop(one):
        do(measures.forget, one.id)
        shutil.rmtree(directory, ignore_errors=True)
        log.info("measure given up", measure=one.id, fence=one.fence)


def end(one: DatasetMeasure, directory: Path) -> None:
    """The process is gone: what came of it?"""
    if not stop(one):
        return
    status = read_status(directory) or {}
    state, error = status.get("state"), status.get("error")
    result: dict[str, Any] | None = None
    if state == "succeeded":
        result = json.loads((directory / "measure.json").read_text())
    failure = error if state == "failed" and isinstance(error, dict) else None
    do(measures.finish, one.id, one.fence, result=result, error=failure)
    log.info("measured", measure=one.id, fence=one.fence, state=state)
    if result is not None:
        shutil.rmtree(directory, ignore_errors=True)


def cannot(trouble: Exception) -> dict[str, Any]:
    """What the page says of a measure that could not be started."""
    if isinstance(trouble, DomainError):
        return {"code": trouble.code, "message": trouble.message, "params": trouble.params}
    if isinstance(trouble, FileNotFoundError):
        return {
            "code": "artefact_missing",
            "message": N_("The store has lost a file that is needed: %(artefact)s."),
            "params": {"artefact": str(trouble)},
        }
    return {
        "code": "cannot_start",
        "message": N_("Node %(node)s could not measure: %(why)s"),
        "params": {"node": settings.node, "why": str(trouble)[:500]},
    }


# -- taking the node down, clearing up -----------------------------------------------------


def drain(node_id: str) -> None:
    """Stop what runs; it waits again, for any node."""
    with transaction() as db:
        active = measures.active_on(db, node_id)
    if all(stop(one) for one in active):
        do(measures.again, node_id)


def clear() -> None:
    """Remove the directories of measures that ended a day ago."""
    with transaction() as db:
        used = {process.marker(one.id, one.fence) for one in measures.active_on(db, settings.node)}
    for path in settings.runs.glob("me_*-*"):
        if path.name not in used and path.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(path, ignore_errors=True)
