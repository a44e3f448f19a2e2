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
from app.datasets.drafts import overlay
from app.datasets.measures import service as measures
from app.datasets.tables import DatasetMeasure, DatasetVersion
from app.errors import N_, DomainError
from app.models.tables import Model
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
KEPT = 24 * 3600  # seconds: the directory of a failed one tells more

noted: dict[str, float] = {}  # when the progress of which attempt was last written
tidied = -TIDY_EVERY


def tick(node_id: str) -> None:
    """One look at what this node measures; the next is taken once there is nothing."""
    global tidied
    with transaction() as db:
        if time.monotonic() - tidied > TIDY_EVERY:
            measures.tidy(db)
            tidied = time.monotonic()
        active = measures.active_on(db, node_id)
        if not active and not draining().exists() and (one := measures.claim(db, node_id)):
            active = [one]
    for one in active:
        try:
            look_after(one)
        except (OperationalError, InterfaceError):
            raise
        except Exception as trouble:
            log.exception("cannot measure", measure=one.id)
            with transaction() as db:
                measures.finish(db, one.id, one.fence, error=cannot(trouble))
    for attempt in noted.keys() - {process.marker(one.id, one.fence) for one in active}:
        del noted[attempt]


def look_after(one: DatasetMeasure) -> None:
    directory = directory_of(one.id, one.fence)
    with transaction() as db:
        subject = measures.subject(db, one)
    if subject is None:
        give_up(one, directory)
        return
    if one.pid is None or one.pid_started is None:
        start(one, directory, *subject)
    elif process.alive(one.pid, one.pid_started):
        attempt = process.marker(one.id, one.fence)
        if time.monotonic() - noted.get(attempt, -NOTE_EVERY) >= NOTE_EVERY:
            noted[attempt] = time.monotonic()
            status = read_status(directory) or {}
            with transaction() as db:
                share = status.get("step", 0) / max(1, status.get("total", 0))
                measures.note(db, one.id, one.fence, share)
    else:
        end(one, directory)


# -- starting ----------------------------------------------------------------------------


def start(one: DatasetMeasure, directory: Path, version: DatasetVersion, model: Model) -> None:
    """Start the attempt, or find the process that was started by whoever died before us."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / "spec.json").exists():
        segments = [str(part["artefact"]) for part in version.segments]
        storage.hold(process.marker(one.id, one.fence), [model.artefact, *segments])
        spec = MeasureSpec(
            measure_id=one.id,
            fence=one.fence,
            model=str(measures.words_of(model.artefact)),
            kind=version.kind,
            rows=version.rows,
            segments=[str(storage.fetch(segment)) for segment in segments],
            edits=write_edits(version, directory),
        )
        partial = directory / "spec.json.partial"
        partial.write_text(spec.model_dump_json(indent=2))
        partial.rename(directory / "spec.json")
    with transaction() as db:  # the draft may have been edited while we read its edits
        if measures.subject(db, one) is None:
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
    with transaction() as db:
        wanted = measures.mark_started(db, one.id, one.fence, *found)
    log.info("measuring", measure=one.id, fence=one.fence, pid=found.pid, wanted=wanted)
    if not wanted:
        process.stop(*found, GRACE, process.marker(one.id, one.fence))


def write_edits(version: DatasetVersion, directory: Path) -> str | None:
    """A draft's edits, [place, rank, row or null] in order, one a line; None without any."""
    over = overlay.of(version)
    touched = sorted({*over.edits, *((place, "") for place in over.deleted)})
    if not touched:
        return None
    path = directory / "edits.jsonl"
    with path.open("wb") as file:
        for at in range(0, len(touched), overlay.BATCH):
            part = touched[at : at + overlay.BATCH]
            found = overlay.contents([over.edits[key] for key in part if key in over.edits])
            for key in part:
                row = found[over.edits[key]] if key in over.edits else b"null"
                file.write(b"[%d,%b,%b]\n" % (key[0], orjson.dumps(key[1]), row))
    return str(path)


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
        with transaction() as db:
            measures.forget(db, one.id)
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
    with transaction() as db:
        measures.finish(db, one.id, one.fence, result=result, error=failure)
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
        with transaction() as db:
            measures.again(db, node_id)


def clear() -> None:
    """Remove the directories of measures that ended a day ago."""
    with transaction() as db:
        used = {process.marker(one.id, one.fence) for one in measures.active_on(db, settings.node)}
    for path in settings.runs.glob("me_*-*"):
        if path.name not in used and path.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(path, ignore_errors=True)
