"""Two versions of a dataset, row by row: joined by row id, then by what the row says.

Only what can differ is read: of a segment that both versions have, the rows with edits. The join
is done by SQLite in a file, so that memory stays small; what differs is kept as an artefact,
until one of the versions changes.
"""

import sqlite3
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets import service
from app.datasets.drafts import overlay
from app.datasets.drafts.overlay import Entry, Overlay
from app.datasets.files import room
from app.datasets.states import DRAFT, PUBLISHED, PUBLISHING
from app.datasets.tables import DatasetComparison, DatasetVersion
from app.db import new_id, now
from app.errors import N_, Conflict
from app.queue import send, transaction

log = structlog.get_logger()

INLINE_SECONDS = 1.5  # a comparison that takes longer goes on in the background
MAX_ATTEMPTS = 3
BATCH = 5000
FILE = "changes.sqlite"
CHANGES = ("added", "removed", "changed")
TASK = "workers.compare_versions"
KEPT = 20  # comparisons of a dataset

TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32000;
CREATE TABLE old (id TEXT, hash BLOB, number INTEGER);
CREATE TABLE new (id TEXT, hash BLOB, number INTEGER);
"""
JOIN = """
CREATE INDEX old_id ON old (id); CREATE INDEX new_id ON new (id);
CREATE TABLE found (change TEXT, old INTEGER, new INTEGER);
INSERT INTO found SELECT 'changed', old.number, new.number
    FROM new JOIN old ON old.id = new.id WHERE old.hash <> new.hash;
CREATE TABLE left_old AS
    SELECT hash, number, row_number() OVER (PARTITION BY hash ORDER BY number) AS turn
    FROM old WHERE NOT EXISTS (SELECT 1 FROM new WHERE new.id = old.id);
CREATE TABLE left_new AS
    SELECT hash, number, row_number() OVER (PARTITION BY hash ORDER BY number) AS turn
    FROM new WHERE NOT EXISTS (SELECT 1 FROM old WHERE old.id = new.id);
CREATE INDEX left_old_hash ON left_old (hash, turn);
CREATE INDEX left_new_hash ON left_new (hash, turn);
INSERT INTO found SELECT 'removed', number, NULL FROM left_old WHERE NOT EXISTS
    (SELECT 1 FROM left_new n WHERE n.hash = left_old.hash AND n.turn = left_old.turn);
INSERT INTO found SELECT 'added', NULL, number FROM left_new WHERE NOT EXISTS
    (SELECT 1 FROM left_old o WHERE o.hash = left_new.hash AND o.turn = left_new.turn);
ATTACH DATABASE ? AS kept
"""
KEEP = """
CREATE TABLE kept.changes (place INTEGER PRIMARY KEY, change TEXT, turn INTEGER,
    old INTEGER, new INTEGER);
INSERT INTO kept.changes
    SELECT row_number() OVER (ORDER BY coalesce(new, old), change) - 1, change,
        row_number() OVER (PARTITION BY change ORDER BY coalesce(new, old)) - 1, old, new
    FROM found;
CREATE INDEX kept.changes_of_kind ON changes (change, turn);
"""


@dataclass(frozen=True)
class Difference:
    """Row numbers of a row in both versions; None where there is no such row."""

    change: str  # added, removed, changed
    old: int | None
    new: int | None


class TooLong(Exception):
    """It is not done within the time."""


# -- asking ------------------------------------------------------------------------------


def sides(
    who: Principal, dataset_id: str, old: str, new: str
) -> tuple[DatasetVersion, DatasetVersion]:
    """Two versions; without `new` the newest, without `old` the one before that."""
    with transaction() as db:
        right = service.version(db, who.workspace_id, dataset_id, new)
        before = [one for one in service.versions(db, dataset_id) if one.number < right.number]
        which = old or str((before or [right])[0].number)
        return service.version(db, who.workspace_id, dataset_id, which), right


def compare(old: DatasetVersion, new: DatasetVersion) -> DatasetComparison:
    """The comparison of two versions of one dataset; a long one is `running` at first."""
    for one in (old, new):
        if one.status not in (DRAFT, PUBLISHING, PUBLISHED):
            raise Conflict(
                N_("Version %(number)s has no rows to compare."), code="no_rows", number=one.number
            )
    with transaction() as db:
        made = insert(DatasetComparison).values(
            id=new_id("cmp"),
            dataset_id=new.dataset_id,
            old_id=old.id,
            old_edition=old.edition,
            new_id=new.id,
            new_edition=new.edition,
            state="running",
            artefact="",
            counts={},
            progress=0.0,
            attempts=0,
            claimed_at=now(),
            created_at=now(),
        )
        fresh = db.scalar(made.on_conflict_do_nothing().returning(DatasetComparison.id))
        found = db.scalars(
            select(DatasetComparison).where(
                DatasetComparison.old_id == old.id,
                DatasetComparison.old_edition == old.edition,
                DatasetComparison.new_id == new.id,
                DatasetComparison.new_edition == new.edition,
            )
        ).one()
        if fresh:
            outdated = tidy(db, found)
    if not fresh:
        return found
    for artefact in outdated:
        storage.delete(artefact)
    try:
        return build(found, until=time.monotonic() + INLINE_SECONDS)
    except TooLong:
        pass
    with transaction() as db:
        held = db.get_one(DatasetComparison, found.id, with_for_update=True)
        held.claimed_at = None
        send(db, TASK, held.id)
    return held


def tidy(db: Session, newest: DatasetComparison) -> list[str]:
    """Forget the dataset's oldest comparisons, and those of drafts that have changed since."""
    query = select(DatasetComparison).where(
        DatasetComparison.dataset_id == newest.dataset_id,
        DatasetComparison.id != newest.id,
        DatasetComparison.state != "running",
    )
    found = list(db.scalars(query.order_by(DatasetComparison.created_at.desc())))
    editions = {newest.old_id: newest.old_edition, newest.new_id: newest.new_edition}
    outdated = [
        one
        for at, one in enumerate(found)
        if at >= KEPT
        or editions.get(one.old_id, one.old_edition) != one.old_edition
        or editions.get(one.new_id, one.new_edition) != one.new_edition
    ]
    for one in outdated:
        db.delete(one)
    return [one.artefact for one in outdated if one.artefact]


def forget(db: Session, version_id: str) -> list[str]:
    """Of a version that goes: its comparisons. The artefacts are to be deleted afterwards."""
    mine = or_(DatasetComparison.old_id == version_id, DatasetComparison.new_id == version_id)
    found = list(db.scalars(select(DatasetComparison).where(mine)))
    for one in found:
        db.delete(one)
    return [one.artefact for one in found if one.artefact]


def clear(dataset_id: str) -> None:
    """Of a deleted dataset: remove its comparisons."""
    with transaction() as db:
        mine = DatasetComparison.dataset_id == dataset_id
        found = list(db.scalars(select(DatasetComparison).where(mine)))
    for one in found:
        if one.artefact:
            storage.delete(one.artefact)
    with transaction() as db:
        db.execute(delete(DatasetComparison).where(mine))


def compare_versions(comparison_id: str) -> None:
    """The body of the task `workers.compare_versions`."""
    with transaction() as db:
        query = select(DatasetComparison).where(
            DatasetComparison.id == comparison_id, DatasetComparison.state == "running"
        )
        one = db.scalar(query.with_for_update(skip_locked=True))
        if one is None or claimed(one):
            return
        if one.attempts >= MAX_ATTEMPTS:
            one.state = "failed"
            return
        one.attempts += 1
        one.claimed_at = now()
    build(one)


def claimed(one: DatasetComparison) -> bool:
    return one.claimed_at is not None and one.claimed_at > now() - service.STALE


def resend(db: Session) -> None:
    """Nudge whoever makes a comparison that nobody is at."""
    running = select(DatasetComparison).where(DatasetComparison.state == "running")
    for one in db.scalars(running.limit(100)):
        if not claimed(one):
            send(db, TASK, one.id)


# -- the work ----------------------------------------------------------------------------


def build(one: DatasetComparison, until: float | None = None) -> DatasetComparison:
    """Compare, store what differs, and say so. Raises TooLong after `until`."""
    with transaction() as db:
        sides = [db.get_one(DatasetVersion, id_) for id_ in (one.old_id, one.new_id)]
    overs = [overlay.of(side) for side in sides]
    plans = plan(overs[0], overs[1]), plan(overs[1], overs[0])
    total = sum(stop - start for cut in plans for start, stop, _ in cut) or 1
    artefact = f"comparisons/{one.id}"
    with room() as directory:
        work = sqlite3.connect(directory / "work.sqlite", isolation_level=None)
        work.executescript(TABLES)
        read = 0
        told = time.monotonic()
        for table, over, cut in zip(("old", "new"), overs, plans, strict=True):
            batch = []
            work.execute("BEGIN")
            for entry in picked(over, cut):
                batch.append((overlay.id_of(entry.line), bytes.fromhex(entry.hash), entry.number))
                read += 1
                if len(batch) == BATCH:
                    work.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", batch)  # noqa: S608
                    batch.clear()
                if read % 256 == 0 and until and time.monotonic() > until:
                    raise TooLong
                if read % 1024 == 0 and time.monotonic() > told + 2:
                    told = time.monotonic()
                    progress(one.id, min(0.9, read / total))
            work.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", batch)  # noqa: S608
            work.execute("COMMIT")
        (directory / "kept").mkdir()
        counts = joined(work, directory / "kept" / FILE)
        work.close()
        storage.put(directory / "kept", artefact)
    counts["same"] = overs[1].rows - counts["added"] - counts["changed"]
    with transaction() as db:
        held = db.get(DatasetComparison, one.id, with_for_update=True)
        if held is not None:
            held.state, held.artefact, held.counts = "done", artefact, counts
            held.progress, held.claimed_at = 1.0, None
    if held is None:
        storage.delete(artefact)
    return held or one


def joined(work: sqlite3.Connection, target: Path) -> dict[str, Any]:
    """Write what differs into `target`; how many rows were added, removed and changed."""
    *statements, attach = JOIN.split(";")
    for statement in statements:
        work.execute(statement)
    work.execute(attach, [str(target)])
    work.executescript(KEEP)
    found = dict(work.execute("SELECT change, count(*) FROM found GROUP BY change").fetchall())
    return {change: found.get(change, 0) for change in CHANGES}


def progress(comparison_id: str, part: float) -> None:
    """How far it has come, which also says that somebody is at it."""
    with transaction() as db:
        held = db.get(DatasetComparison, comparison_id)
        if held is not None:
            held.progress, held.claimed_at = part, now()


Cut = list[tuple[int, int, set[int] | None]]  # rows of a version, and at which places; None: all


def plan(mine: Overlay, other: Overlay) -> Cut:
    """Which rows of `mine` may differ from the other version's."""
    theirs = {artefact: start for artefact, start, _ in placed(other)}
    found: Cut = []
    for artefact, start, end in placed(mine):
        first, last = mine.before((start, "")), mine.before((end, ""))
        if artefact not in theirs:
            found.append((first, last, None))
            continue
        places = set(edited(mine, start, end))
        places |= {
            place - theirs[artefact] + start
            for place in edited(other, theirs[artefact], theirs[artefact] + end - start)
        }
        if places:
            low = mine.before((min(places), ""))
            found.append((low, mine.before((max(places) + 1, "")), places))
    tail = mine.before((mine.base, ""))
    if tail < mine.rows:
        found.append((tail, mine.rows, None))
    return found


def placed(over: Overlay) -> Iterator[tuple[str, int, int]]:
    """Each segment, and the places that it holds."""
    start = 0
    for segment in over.segments:
        yield segment["artefact"], start, start + segment["rows"]
        start += segment["rows"]


def edited(over: Overlay, start: int, end: int) -> list[int]:
    """The places from `start` to `end` at which an edit lies."""
    low, high = bisect_left(over.keys, (start, "")), bisect_right(over.keys, (end, ""))
    return [place for place, _ in over.keys[low:high] if place < end]


def picked(over: Overlay, cut: Cut) -> Iterator[Entry]:
    for start, stop, places in cut:
        for entry in overlay.entries(over, start, stop):
            if places is None or entry.key[0] in places:
                yield entry


# -- reading it --------------------------------------------------------------------------


def differences(
    one: DatasetComparison, *, change: str = "", offset: int = 0, limit: int = 20
) -> list[Difference]:
    """What differs, in the order of the newer version; of one kind, if `change` names it."""
    path = quote(str(storage.fetch(one.artefact) / FILE))
    column, where = ("turn", "change = ? AND") if change else ("place", "")
    query = f"SELECT change, old, new FROM changes WHERE {where} {column} >= ? ORDER BY {column} LIMIT ?"  # noqa: S608
    told = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        values = [change, offset, limit] if change else [offset, limit]
        return [Difference(*row) for row in told.execute(query, values)]
    finally:
        told.close()
