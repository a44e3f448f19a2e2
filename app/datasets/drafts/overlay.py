"""A draft as its reader sees it: the rows of its segments, with its edits laid over them.

An overlay knows where the deleted, changed and added rows stand, not what they say, so that it
is small; it is kept until the draft's next edition. Whatever a page needs of the edits' contents
is one query. A version without edits is read as it lies.
"""

import hashlib
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from heapq import merge
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session

from app import storage
from app.datasets.rows import browse, search, segments
from app.datasets.rows.browse import PAGE_BYTES, SCAN_SECONDS, Page
from app.datasets.tables import DatasetVersion, DraftAct, RowEdit
from app.errors import N_, Invalid, NotFound
from app.queue import transaction

NO_ROW = N_("There is no such row.")
BATCH = 200  # edits whose contents are asked for at once

Key = tuple[int, str]  # (place, rank), the order of a draft's rows: see RowEdit


@dataclass
class Overlay:
    """What a draft's edits make of its segments. Places are numbers of rows in the segments."""

    segments: list[dict[str, Any]] = field(default_factory=list)
    base: int = 0  # rows in the segments
    deleted: list[int] = field(default_factory=list)  # places, ascending
    added: list[Key] = field(default_factory=list)  # ascending
    edits: dict[Key, int] = field(default_factory=dict)  # which edit says what a row is
    ids: dict[str, Key] = field(default_factory=dict)  # of every row with an edit
    gone: list[int] = field(default_factory=list)  # edits that deleted, newest first

    @property
    def rows(self) -> int:
        return self.base - len(self.deleted) + len(self.added)

    @cached_property
    def touched(self) -> list[Key]:
        """Of the changed and the added rows, ascending."""
        return sorted(self.edits)

    @cached_property
    def keys(self) -> list[Key]:
        """Of every row with an edit, the deleted among them, ascending."""
        return sorted(self.ids.values())

    def fresh(self, key: Key) -> bool:
        """Whether the row was added in this draft."""
        return key[0] >= self.base or bool(key[1])

    def before(self, key: Key) -> int:
        """How many rows of the draft stand before `key`."""
        place, rank = key
        below = min(place + 1 if rank else place, self.base)
        return below - bisect_left(self.deleted, below) + bisect_left(self.added, key)

    def find(self, number: int) -> tuple[int, int]:
        """A place, and how many rows to skip from there to row `number` of the draft."""
        low, high = 0, self.base
        while low < high:
            middle = (low + high + 1) // 2
            if self.before((middle, "")) <= number:
                low = middle
            else:
                high = middle - 1
        return low, number - self.before((low, ""))

    def key(self, number: int) -> Key:
        """Of row `number` of the draft; past the last one, a key past all."""
        place, skip = self.find(number)
        if place < self.base:
            dead = bisect_left(self.deleted, place)
            if dead == len(self.deleted) or self.deleted[dead] != place:
                if not skip:
                    return place, ""
                skip -= 1
        at = bisect_left(self.added, (place, "")) + skip
        return (
            self.added[at] if at < len(self.added) else (self.base + len(self.added) + number, "")
        )

    def mark(self, row_id: str) -> str:
        """`added`, `changed` or nothing: what a list says of a row."""
        key = self.ids.get(row_id)
        return "" if key is None else "added" if self.fresh(key) else "changed"


# -- loading -----------------------------------------------------------------------------


def of(version: DatasetVersion) -> Overlay:
    """The overlay of a version; one that was never edited costs no query."""
    if not version.edition:
        return Overlay(version.segments, sum(one["rows"] for one in version.segments))
    return loaded(version.id, version.edition)


@lru_cache(maxsize=16)
def loaded(version_id: str, _edition: int) -> Overlay:
    """Cached by edition: every change of a draft makes another."""
    with transaction() as db:
        db.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return load(db, version_id)


def load(db: Session, version_id: str) -> Overlay:
    """The overlay as it is now. Raises NotFound."""
    held = db.scalar(select(DatasetVersion.segments).where(DatasetVersion.id == version_id))
    if held is None:
        raise NotFound(N_("There is no such version."))
    made = Overlay(held, sum(one["rows"] for one in held))
    listed = (
        select(
            func.json_build_array(
                RowEdit.place, RowEdit.rank, RowEdit.id, RowEdit.row_id, RowEdit.after.is_(None)
            )
        )
        .join(DraftAct, DraftAct.id == RowEdit.act_id)
        .where(
            RowEdit.version_id == version_id,
            DraftAct.state == "done",
            DraftAct.number > folded(db, version_id),
        )
        .order_by(DraftAct.number, RowEdit.id)
        .subquery()
    )
    # as one text: thousands of small rows would take longer to fetch than to find
    told = db.scalar(select(cast(func.json_agg(listed.c[0]), Text))) or "[]"
    gone: dict[Key, int] = {}
    for place, rank, edit, row_id, is_gone in orjson.loads(told):
        key = (place, rank)
        made.ids[row_id], made.edits[key] = key, edit
        gone.pop(key, None)
        if is_gone:
            gone[key] = edit
    for key in gone:
        del made.edits[key]
    made.gone = sorted(gone.values(), reverse=True)
    made.deleted = sorted(place for place, rank in gone if not made.fresh((place, rank)))
    made.added = sorted(key for key in made.edits if made.fresh(key))
    return made


def folded(db: Session, version_id: str) -> int:
    """The number of the last act that wrote new segments: edits up to it are in them."""
    query = select(func.max(DraftAct.number)).where(
        DraftAct.version_id == version_id,
        DraftAct.state == "done",
        DraftAct.segments.is_not(None),
    )
    return db.scalar(query) or 0


def contents(edits: list[int]) -> dict[int, bytes]:
    """The JSON that each edit left."""
    with transaction() as db:
        query = select(RowEdit.id, RowEdit.after).where(RowEdit.id.in_(edits))
        return {edit: after for edit, after in db.execute(query) if after is not None}


# -- rows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A row of a draft: where it stands, and its JSON."""

    number: int  # in the draft, from 0
    key: Key
    line: bytes

    @property
    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.line)
        return found

    @property
    def hash(self) -> str:
        return row_hash(self.line)


def row_hash(line: bytes) -> str:
    """`formats.row_hash` of a row as it is stored: its id stands first."""
    return hashlib.blake2b(b"{" + line.split(b",", 1)[1]).hexdigest()[:32]


def id_of(line: bytes) -> str:
    """The row's id, without reading the row."""
    found: str = orjson.loads(line[len(b'{"id":') : line.index(b",")])
    return found


def entries(over: Overlay, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
    """The rows from number `start` on, up to `stop` of the draft."""
    place, skip = over.find(start)
    stop = over.rows if stop is None else min(stop, over.rows)
    ahead: dict[int, bytes] = {}

    def said(key: Key) -> bytes:
        edit = over.edits[key]
        if edit not in ahead:
            ahead.clear()
            at = bisect_left(over.touched, key)
            ahead.update(contents([over.edits[one] for one in over.touched[at : at + BATCH]]))
        return ahead[edit]

    number = start - skip
    for key, line in walk(over, place):
        if number >= stop:
            return
        if number >= start:
            yield Entry(number, key, said(key) if key in over.edits else line)
        number += 1


def walk(over: Overlay, place: int) -> Iterator[tuple[Key, bytes]]:
    """The rows from `place` on, in order, as the segments have them; added ones are empty."""
    dead, more = bisect_left(over.deleted, place), bisect_left(over.added, (place, ""))
    for at, line in enumerate(base_lines(over, place), start=place):
        if dead < len(over.deleted) and over.deleted[dead] == at:
            dead += 1
        else:
            yield (at, ""), line
        while more < len(over.added) and over.added[more][0] == at:
            yield over.added[more], b""
            more += 1
    for key in over.added[more:]:
        yield key, b""


def base_lines(over: Overlay, start: int) -> Iterator[bytes]:
    """The rows of the segments from number `start` on, without edits. Raises NotFound."""
    for segment in over.segments:
        if start < segment["rows"]:
            try:
                directory = storage.fetch(segment["artefact"])
            except FileNotFoundError:
                raise NotFound(N_("The rows of this version are gone.")) from None
            yield from segments.lines(directory, start)
        start = max(0, start - segment["rows"])


def lines(version: DatasetVersion, start: int = 0) -> Iterator[bytes]:
    """The JSON of each row from number `start` on, edits and all. Raises NotFound."""
    if not version.edition:
        return browse.lines(version, start)
    return (entry.line for entry in entries(of(version), start))


def download(version: DatasetVersion) -> Iterator[bytes]:
    """All rows as JSONL, in blocks: what an upload takes, so without our row ids."""
    block: list[bytes] = []
    size = 0
    for line in lines(version):
        block += (b"{", line.split(b",", 1)[1], b"\n")
        size += len(line)
        if size > 2**18:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)


def entry(over: Overlay, number: int) -> Entry:
    """Row `number` of the draft. Raises NotFound."""
    if 0 <= number < over.rows:
        for found in entries(over, number, number + 1):
            return found
    raise NotFound(NO_ROW)


def row(version: DatasetVersion, number: int) -> dict[str, Any]:
    """Raises NotFound."""
    return entry(of(version), number).row


# -- pages -------------------------------------------------------------------------------


def page(version: DatasetVersion, *, offset: int, limit: int, q: str = "", **wanted: Any) -> Page:
    """As `browse.page`, with the edits laid over."""
    over = of(version)
    if not over.ids:
        return browse.page(version, offset=offset, limit=limit, q=q, **wanted)
    filters = search.wanted(q, **wanted)
    if not filters:
        return scan(over, offset, limit, None)
    if filters.flag != search.DUPLICATE:
        plain = DatasetVersion(segments=over.segments, checks=version.checks)
        numbers = search.find(plain, filters)
        if numbers is not None:
            edited = matching(version.id, version.edition, filters)
            return chosen(over, numbers, edited, offset, limit)
    return scan(over, offset, limit, browse.finder(filters))


def scan(over: Overlay, offset: int, limit: int, fits: Callable[[bytes], bool] | None) -> Page:
    """A page by going through the rows; with `fits`, for at most a second."""
    found = Page(next_offset=offset)
    size = 0
    until = time.monotonic() + SCAN_SECONDS
    for entry in entries(over, offset, None if fits else offset + limit):
        full = len(found.rows) == limit or size > PAGE_BYTES
        look = fits and entry.number > offset and (entry.number - offset) % 256 == 0
        if full or (look and time.monotonic() > until):
            break
        found.next_offset = entry.number + 1
        if fits and not fits(entry.line):
            continue
        size += len(entry.line)
        found.rows.append((entry.number, entry.row))
    found.has_more = found.next_offset < over.rows
    return found


@lru_cache(maxsize=16)
def matching(version_id: str, edition: int, filters: search.Filters) -> list[Key]:
    """Which of the changed and the added rows a search finds."""
    over, fits = loaded(version_id, edition), browse.finder(filters)
    said = {
        edit: fits(line)
        for at in range(0, len(over.touched), BATCH)
        for edit, line in contents(
            [over.edits[key] for key in over.touched[at : at + BATCH]]
        ).items()
    }
    return [key for key in over.touched if said[over.edits[key]]]


def chosen(
    over: Overlay, numbers: Sequence[int], edited: list[Key], offset: int, limit: int
) -> Page:
    """The page at `offset` of what a search found: `numbers` in the segments, but those with an
    edit, and the rows with edits that it finds now.
    """
    stale = [key for key in over.keys if not over.fresh(key) and within(numbers, key[0])]

    def before(number: int) -> int:
        """Matches that come before row `number`."""
        place, rank = key = over.key(number)
        known = bisect_left(numbers, place + bool(rank)) - bisect_left(stale, key)
        return known + bisect_left(edited, key)

    def page_of(match: int) -> int:
        return bisect_left(range(over.rows), match, key=before)

    first = over.key(offset)
    at = bisect_left(numbers, first[0] + bool(first[1]))
    found = Page(next_offset=offset, before=before(offset))
    found.matches = len(numbers) - len(stale) + len(edited)
    if found.before:
        found.previous = page_of(max(found.before - limit, 0))
    if found.matches > limit:
        found.last = page_of((found.matches - 1) // limit * limit)
    gone = set(stale)
    old = ((number, "") for number in islice(numbers, at, None) if (number, "") not in gone)
    keys = list(islice(merge(old, edited[bisect_left(edited, first) :]), limit + 1))
    size = 0
    for key in keys[:limit]:
        row = entry(over, over.before(key))
        found.rows.append((row.number, row.row))
        found.next_offset = row.number + 1
        size += len(row.line)
        if size > PAGE_BYTES:
            break
    found.has_more = len(found.rows) < len(keys)
    return found


def within(numbers: Sequence[int], number: int) -> bool:
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


def finder(*, q: str = "", **wanted: Any) -> Callable[[bytes], bool]:
    """Whether a row, given its JSON, is one that a search finds. Raises Invalid."""
    filters = search.wanted(q, **wanted)
    if not filters or (q and not q.strip()):
        raise Invalid(N_("Say what to look for."), code="missing", field="q")
    return browse.finder(filters)
