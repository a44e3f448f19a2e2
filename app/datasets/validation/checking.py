"""From an upload to a draft, in stretches: unpack, read, look at each row, match rows.

`unpack` makes plain files of what came. `read` is the structural pass: good rows into plain
segments, bad ones into issues. `look` goes through one segment: its rows are compressed, and what
is known of them is written beside them. `match` finds equal rows, and the version is a draft.
Each stretch is applied only if nobody did so before; a version that was made otherwise (by a
draft or a cleaning) is looked at and matched too, while it is in use already.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import zstandard
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from app import storage
from app.config import settings
from app.datasets import formats, service
from app.datasets.containers import unpacking
from app.datasets.containers.unpacking import File, Manifest, Source
from app.datasets.files import drop, room
from app.datasets.intake.upload import part
from app.datasets.rows import facts
from app.datasets.states import DRAFT, FAILED, PUBLISHED, VALIDATING, switch
from app.datasets.tables import DatasetIssue, DatasetVersion
from app.datasets.validation import mapping, matching, validate
from app.datasets.validation.validate import Cursor, Issue
from app.db import now
from app.errors import N_, Invalid
from app.queue import send, transaction

log = structlog.get_logger()

BEAT = 20.0  # seconds between two signs of life
ASKED = 200  # files whose first rows say whether a mapping is needed
TRIES = 5  # at one stretch of looking at a version that is in use

NO_ROWS = N_("The file contains no row.")
NO_GOOD_ROWS = N_("No row of this file can be used. The first problem, on line %(line)s: %(why)s")
TOO_MANY = N_(
    "More than %(most)s rows of this file cannot be used, so it is refused as a whole. "
    "The first problem, on line %(line)s: %(why)s"
)


def longest() -> int:
    """Bytes that a row may have."""
    return settings.max_row_mb * 2**20


# -- one stretch -------------------------------------------------------------------------


def stretch(one: DatasetVersion, *, ours: bool = False) -> DatasetVersion | None:
    """The next stretch of a version that is `validating`; the version after it, if we did it.

    `ours`: nobody else is to take the next one. What nothing can be made of fails; ours raises
    Invalid instead.
    """
    stages = {"unpack": unpack, "read": read, "look": look, "match": match}
    stage = stages[one.cursor.get("stage", "unpack")]
    turn = Turn(one, ours)
    try:
        stage(turn)
    except FileNotFoundError:  # on its way to the store, or lost: attempts are counted
        log.warning("what was uploaded is not in the store", version=one.id)
    except Invalid as error:
        if ours:
            raise
        with transaction() as db:
            if held := turn.hold(db):
                turn.fail(db, held, error.message, error.code, error.params)
    return turn.after


@dataclass
class Turn:
    """A version as it was claimed, and as it is after the stretch."""

    one: DatasetVersion
    ours: bool
    after: DatasetVersion | None = None
    beaten: float = 0.0

    def hold(self, db: Session) -> DatasetVersion | None:
        """The version, locked, unless somebody was quicker or nobody wants it any more."""
        held = db.get(DatasetVersion, self.one.id, with_for_update=True)
        if held is None or held.status != VALIDATING or held.cursor != self.one.cursor:
            return None
        self.after = held
        return held

    def go_on(self, db: Session, held: DatasetVersion, cursor: dict[str, Any]) -> None:
        held.cursor, held.attempts = cursor, 0
        held.claimed_at = now() if self.ours else None
        if not self.ours:
            service.nudge(db, held)

    def fail(
        self, db: Session, held: DatasetVersion, message: str, code: str, params: dict[str, Any]
    ) -> None:
        if self.ours:
            raise Invalid(message, code=code, **params)
        held.rows = 0
        switch(db, held, FAILED, error={"code": code, "message": message, "params": params})

    def beat(self) -> None:
        """Say that somebody is still at it, as long as it takes."""
        if time.monotonic() < self.beaten + BEAT:
            return
        if self.beaten:
            with transaction() as db:
                held = db.get(DatasetVersion, self.one.id, with_for_update=True)
                if held and held.claimed_at and held.cursor == self.one.cursor:
                    held.claimed_at = now()
        self.beaten = time.monotonic()


# -- unpack ------------------------------------------------------------------------------


def unpack(turn: Turn) -> None:
    one = turn.one
    files = uploaded(one)
    with room() as into:
        manifest = unpacking.unpack(files, into, longest(), turn.beat)
        sources = unpacking.sources(manifest, files, into)
        unknown = [] if one.mapping else unnamed(sources)
        if manifest.unpacked and not unknown:
            storage.move(into, unpacked(one))
    with transaction() as db:
        if (held := turn.hold(db)) is None:
            return
        if unknown:
            mapping.wait(db, held, unknown)
            return
        held.rows, held.segments, held.error_count, held.warning_count = 0, [], 0, 0
        db.execute(delete(DatasetIssue).where(DatasetIssue.version_id == held.id))
        write(db, held, [noted(note) for note in manifest.notes])
        lies = None if manifest.unpacked else manifest.to_json()
        size = sum(source.bytes for source in sources)
        at = {"stage": "read", "at": Cursor().to_json(), "bytes": size, "progress": 0.02}
        turn.go_on(db, held, at | {"manifest": lies})


def uploaded(one: DatasetVersion) -> list[File]:
    """The files as they came. Raises FileNotFoundError."""
    directory = storage.fetch(one.upload)
    return [File(file["name"], directory / part(at)) for at, file in enumerate(one.files)]


def unpacked(one: DatasetVersion) -> str:
    return f"unpacked/{one.id}"


def plain(one: DatasetVersion, at: int) -> str:
    """The segment `at` until somebody has looked at it."""
    return f"plain/{one.id}.{at}"


def sweep_up(one: DatasetVersion) -> None:
    """Remove what only a validation needs."""
    storage.delete(unpacked(one))
    for at in range(len(one.segments) + 1):  # the last may have been read and not applied
        storage.delete(plain(one, at))


def unnamed(sources: list[Source]) -> list[Any]:
    """The first rows of the first file whose fields are none of a known format."""
    for rows in validate.sample(sources[:ASKED], longest()):
        known = any(formats.detect(row) for row in rows)
        if not known and any(isinstance(row, dict) and row for row in rows):
            return rows
    return []


def noted(note: dict[str, Any]) -> Issue:
    return Issue("warning", 0, "", note["code"], note["message"], note["params"], note["file"])


# -- read --------------------------------------------------------------------------------


def read(turn: Turn) -> None:
    one = turn.one
    sources = sources_of(one)
    cursor = Cursor.from_json(one.cursor["at"])
    segment = {"artefact": plain(one, len(one.segments))}
    with room() as directory:
        step = validate.step(sources, cursor, directory, one.id, longest(), one.mapping)
        if step.rows:
            storage.move(directory, segment["artefact"])
    with transaction() as db:
        if held := turn.hold(db):
            apply(turn, db, held, sources, step, segment)
    if not held:
        drop(segment["artefact"])


def sources_of(one: DatasetVersion) -> list[Source]:
    if lies := one.cursor["manifest"]:
        return unpacking.sources(Manifest(**lies), uploaded(one), Path())
    directory = storage.fetch(unpacked(one))
    with suppress(FileNotFoundError):
        return unpacking.sources(unpacking.manifest(directory), uploaded(one), directory)
    raise FileNotFoundError(unpacked(one))


def apply(
    turn: Turn,
    db: Session,
    held: DatasetVersion,
    sources: list[Source],
    step: validate.Step,
    segment: dict[str, Any],
) -> None:
    """Write what a stretch of reading found."""
    write(db, held, step.issues)
    if step.rows:
        held.segments = [*held.segments, segment | {"rows": step.rows}]
        held.rows += step.rows
    cursor = step.cursor
    held.format = cursor.first or cursor.format
    held.kind = cursor.kind or held.kind
    if held.error_count > validate.MAX_ISSUES:
        refuse(turn, db, held, TOO_MANY, "file.too_many_errors")
    elif not step.done:
        read = sum(source.bytes for source in sources[: cursor.source])
        read += cursor.place.offset if cursor.place else 0
        share = read / max(held.cursor["bytes"], 1)
        progress = round(0.02 + 0.28 * min(share, 1), 4)
        turn.go_on(db, held, held.cursor | {"at": cursor.to_json(), "progress": progress})
    elif not held.rows:
        refuse(turn, db, held, NO_GOOD_ROWS, "file.no_rows")
    else:
        held.files = [
            {"name": source.name, "bytes": source.bytes, "rows": rows, "first": base}
            for source, rows, base in zip(sources, cursor.rows, cursor.bases, strict=True)
        ]
        turn.go_on(db, held, {"stage": "look", "at": 0, "progress": 0.3})


def write(db: Session, held: DatasetVersion, issues: list[Issue]) -> None:
    """Store what was found, counted as well."""
    if not issues:
        return
    query = select(func.max(DatasetIssue.number)).where(DatasetIssue.version_id == held.id)
    number = db.scalar(query) or 0
    found = [
        vars(issue) | {"version_id": held.id, "number": number + at}
        for at, issue in enumerate(issues, start=1)
    ]
    db.execute(insert(DatasetIssue), found)
    errors = sum(issue.level == "error" for issue in issues)
    held.error_count += errors
    held.warning_count += len(issues) - errors


def refuse(turn: Turn, db: Session, held: DatasetVersion, message: str, code: str) -> None:
    """The whole file is refused; its first problem says why."""
    first = service.issues(db, held.id, level="error", limit=1)
    if not first:
        turn.fail(db, held, NO_ROWS, code, {})
        return
    why = {"message": first[0].message, "params": first[0].params}
    params: dict[str, Any] = {"line": first[0].line, "why": why}
    if message == TOO_MANY:
        params["most"] = validate.MAX_ISSUES
    turn.fail(db, held, message, code, params)


# -- look --------------------------------------------------------------------------------


def look(turn: Turn) -> None:
    one = turn.one
    at = one.cursor["at"]
    segment = one.segments[at]
    made = examine(segment, turn.beat, pack=True)
    with transaction() as db:
        held = turn.hold(db)
        if held:
            held.segments = [*held.segments[:at], made, *held.segments[at + 1 :]]
            share = (at + 1) / len(held.segments)
            progress = round(0.3 + 0.65 * share, 4)
            stage = "match" if share == 1 else "look"
            turn.go_on(db, held, {"stage": stage, "at": at + 1, "progress": progress})
    if held:
        storage.delete(segment["artefact"])  # plain rows are no other version's
    else:
        drop(made["artefact"])


def examine(
    segment: dict[str, Any], beat: Callable[[], None], *, pack: bool = False
) -> dict[str, Any]:
    """Put the facts of a segment into the store, and its rows compressed; the segment then."""
    source = storage.fetch(segment["artefact"])
    with room() as known, room() as packed:
        written = facts.write(source, known, packed if pack else None, beat)
        name = written.artefact if written else segment["artefact"]
        if written:
            storage.move(packed, name)
        storage.move(known, facts.artefact(name))
    return segment | {"artefact": name}


# -- match -------------------------------------------------------------------------------


def match(turn: Turn) -> None:
    one = turn.one
    with room() as directory:
        found = matching.gather(one, directory, turn.beat)
        storage.move(directory, found.artefact)
    with transaction() as db:
        if held := turn.hold(db):
            write(db, held, found.issues)
            note(held, found)
            switch(db, held, DRAFT)
    if not held:
        leave(one.id, found)


def leave(version_id: str, found: matching.Found) -> None:
    """Remove what was found too late, unless the one who was quicker found the same."""
    with transaction() as db:
        one = db.get(DatasetVersion, version_id)
        used = one is not None and one.checks.get("artefact") == found.artefact
    if not used:
        storage.delete(found.artefact)


def note(held: DatasetVersion, found: matching.Found) -> None:
    """Remember what was found: `checks` names it, for these segments."""
    held.checks = {
        "of": held.segments,
        "artefact": found.artefact,
        "counts": found.counts,
        "listed": len(found.issues),
    }
    held.warning_count += sum(found.counts.values()) - len(found.issues)


# -- versions that are in use ------------------------------------------------------------


def check_version(version_id: str) -> None:
    """Look at the next segment of a version that was not made by an upload, or match its rows:
    the body of the task `workers.check_dataset`.
    """
    with transaction() as db:
        one = db.get(DatasetVersion, version_id, with_for_update=True)
        if (
            one is None
            or one.status not in (DRAFT, PUBLISHED)
            or one.checks.get("of") == one.segments
        ):
            return
        begun, tries = one.checks.get("claimed", 0.0), one.checks.get("tries", 0)
        if begun > time.time() - service.STALE.total_seconds():
            return
        if tries >= TRIES:
            one.checks = {"of": one.segments, "failed": True}
            return
        one.checks = {**one.checks, "claimed": time.time(), "tries": tries + 1}
    try:
        missing = matching.missing(one)
        if missing:
            examine(missing, lambda: None)
            found = None
        else:
            with room() as directory:
                found = matching.gather(one, directory, lambda: None)
                storage.move(directory, found.artefact)
    except (FileNotFoundError, ValueError, zstandard.ZstdError):
        log.exception("the rows of a version cannot be looked at", version=one.id)
        return
    with transaction() as db:
        held = db.get(DatasetVersion, version_id, with_for_update=True)
        if held is None or held.segments != one.segments:
            return
        if found is None:
            held.checks = {**held.checks, "claimed": 0.0, "tries": 0}
            send(db, "workers.check_dataset", held.id)
            return
        old = held.checks
        matching.forget(db, held)
        write(db, held, found.issues)
        note(held, found)
    if old.get("artefact") not in (None, found.artefact):
        storage.delete(old["artefact"])
