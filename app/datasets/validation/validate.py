"""Validates an upload, a stretch at a time: good rows into a segment, bad ones into issues.

A stretch ends after `STEP_BYTES`, so that it takes seconds, and its cursor says where the next
begins: a validation that is killed goes on from the last stretch that was stored. The same
stretch gives the same segment, however often it is read.

This is the structural pass: JSON, shape, roles, what is wrong in which line, and a hash of each
row. What is odd in rows that can be used is found later (`warnings`).
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash

from app.datasets import formats
from app.datasets.containers import reader
from app.datasets.containers.reader import Piece, Place
from app.datasets.containers.unpacking import Source
from app.datasets.formats import KINDS, BadRow
from app.datasets.rows import segments
from app.datasets.validation import quick
from app.datasets.validation.parsing import parse
from app.errors import N_

STEP_BYTES = 64 * 2**20
BATCH = 2**16  # bytes of JSONL that are cut into lines together, and become a frame
MAX_ISSUES = 100_000  # a version with more bad rows than this is refused as a whole
MAX_FIELDS = 50  # different unused fields that are named

PROBLEMS = {
    "unclosed": N_("The array is never closed with “]”: the file may have been cut short."),
    "trailing": N_("The array ends on line %(at)s; what follows it was not read."),
}

row_hash = xxhash.xxh3_128_digest  # of a row's JSON without its id


@dataclass(frozen=True)
class Issue:
    """Why a row was left out (`error`), or what else should be known of it (`warning`)."""

    level: str
    line: int  # of JSONL; in an array, the number of the element
    path: str
    code: str
    message: str  # msgid
    params: dict[str, Any]
    file: str = ""  # which of several


@dataclass
class Cursor:
    """All that a stretch needs from those before it. Kept as JSON in the version's row."""

    source: int = 0  # which of the files
    place: Place | None = None  # in it; None: it is not begun
    base: int = 0  # what is added to a row's number in its file to make it one of the version
    format: str = ""  # of this file, known once a row has said so
    mapped: bool = False  # its columns were named: by the upload itself, or by the user
    kind: str = ""  # of all rows
    first: str = ""  # the first file's format
    rows: list[int] = field(default_factory=list)  # good ones of each file, so far
    bases: list[int] = field(default_factory=list)  # `base` of each file, so far
    # fields that no row of this format has: how often, the line where first, and the file
    unused: dict[str, list[Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Cursor":
        place = Place(**data["place"]) if data["place"] else None
        return cls(**{**data, "place": place})


@dataclass
class Step:
    cursor: Cursor
    rows: int  # that were written
    issues: list[Issue]
    done: bool


def step(
    sources: Sequence[Source],
    cursor: Cursor,
    directory: Path,
    prefix: str,
    most: int,
    mapping: dict[str, Any] | None = None,
) -> Step:
    """Read one stretch from `cursor`, writing its good rows as a plain segment into `directory`.

    Row ids are `prefix.number`. `most` is the longest row, in bytes. `mapping` is the user's, for
    files that say nothing of their columns. Memory holds a batch of rows and the issues, whatever
    the size of the files. Raises Invalid for a file that cannot be a dataset.
    """
    with segments.Plain(directory, prefix) as out:
        stretch = Stretch(sources, Cursor.from_json(cursor.to_json()), most, mapping, out)
        done = stretch.run()
    if done:
        stretch.issues += unused(stretch.state)
    return Step(stretch.state, out.rows, stretch.issues, done)


class Stretch:
    def __init__(
        self,
        sources: Sequence[Source],
        state: Cursor,
        most: int,
        mapping: dict[str, Any] | None,
        out: segments.Plain,
    ) -> None:
        self.sources, self.state, self.most, self.out = sources, state, most, out
        self.users = mapping  # the user's mapping
        self.issues: list[Issue] = []
        self.left = STEP_BYTES
        self.rows: list[bytes] = []  # that become the next frame
        self.numbers: list[int] = []  # theirs
        self.held = 0  # bytes that `take` has put there, roughly
        self.read: quick.Reader = quick.refuse

    # -- files ---------------------------------------------------------------------------

    def run(self) -> bool:
        """Whether all is read."""
        state = self.state
        while state.source < len(self.sources):
            source = self.sources[state.source]
            place = state.place or self.open(source)
            self.read = self.reader()
            before = self.out.rows
            place, ended = self.file(source, place)
            self.flush()
            if self.out.rows > before:
                state.rows[-1] += self.out.rows - before
                state.kind = state.kind or KINDS[state.format]
                state.first = state.first or state.format
            state.place = place
            if not ended:
                return False
            state.source, state.place = state.source + 1, None
            state.base += place.number
        return True

    def open(self, source: Source) -> Place:
        """A file begins. Raises Invalid."""
        state = self.state
        state.mapped = bool(source.mapping)
        state.format = source.mapping["format"] if source.mapping else ""
        state.rows.append(0)
        state.bases.append(state.base)
        return source.begin()

    def reader(self) -> quick.Reader:
        """The quick way to read rows of this file."""
        state = self.state
        if state.mapped or state.kind not in ("", KINDS.get(state.format)):
            return quick.refuse
        return quick.READERS.get(state.format, quick.refuse)

    @property
    def source(self) -> Source:
        return self.sources[self.state.source]

    def file(self, source: Source, place: Place) -> tuple[Place, bool]:
        """Read on in a file; where it stands then, and whether that is the end."""
        while place.shape in ("lines", "spool"):
            with source.path.open("rb", buffering=0) as file:
                place, ended = self.batches(file, place)
            if ended or self.full():
                return place, ended
            # the next line is longer than a batch
            piece = next(reader.pieces(source.path, place, self.most), None)
            if piece is None:
                return place, True
            self.take(piece)
            self.left -= piece.after.offset - place.offset
            place = piece.after
        for piece in reader.pieces(source.path, place, self.most):
            if self.full():
                return place, False
            self.take(piece)
            self.left -= piece.after.offset - place.offset
            place = piece.after
        return place, True

    def full(self) -> bool:
        return self.left <= 0 or len(self.issues) > MAX_ISSUES

    # -- rows ----------------------------------------------------------------------------

    def batches(self, file: BinaryIO, place: Place) -> tuple[Place, bool]:
        """Take lines, many at a time, up to one that is longer than a batch or than a row may be.

        Where the next line begins, and whether there is none.
        """
        offset, number = place.offset, place.number
        while not self.full():
            file.seek(offset)
            chunk = file.read(BATCH)
            if not chunk:
                return Place(place.shape, offset, number, number + 1), True
            lines = chunk.split(b"\n")
            size = len(chunk)
            if size == BATCH or not lines[-1]:
                size -= len(lines.pop())
            if self.most <= BATCH:
                long = next((at for at, one in enumerate(lines) if len(one) >= self.most), None)
                if long is not None:
                    del lines[long:]
                    size = sum(map(len, lines)) + len(lines)
            if not lines:
                break
            self.batch(lines, chunk[:size], number, place.shape)
            number += len(lines)
            offset += size
            self.left -= size
        return Place(place.shape, offset, number, number + 1), False

    def batch(self, lines: list[bytes], block: bytes, number: int, shape: str) -> None:
        """Take the lines that `block` consists of."""
        base = self.state.base
        try:
            rows = self.read(lines, block)
        except quick.REFUSED:
            pass
        else:
            first = base + number + 1
            self.write(rows, range(first, first + len(lines)))
            return
        keep, note = self.rows.append, self.numbers.append
        for at, line in enumerate(lines, start=base + number + 1):
            try:
                keep(self.read((line,), line))
            except quick.REFUSED:
                if not self.slowly(line, at - base, shape):
                    continue
            note(at)
        self.flush()

    def slowly(self, line: bytes, number: int, shape: str) -> bool:
        """Whether the line holds a row that can be used; it is among `rows` then."""
        data = line.strip(reader.BLANK)
        if not data:
            return False
        why = reader.problem(data) if shape == "spool" else None
        after = Place(shape, 0, number, number + 1)
        found = self.exactly(Piece(number, number, b"" if why else data, after, why=why))
        if found is not None:
            self.rows.append(found)
        return found is not None

    def take(self, piece: Piece) -> None:
        """A row that was cut out by the reader."""
        row: bytes | None = None
        if piece.data and not piece.problem:
            with suppress(*quick.REFUSED):
                row = self.read((piece.data,), piece.data)
        if row is None:
            row = self.exactly(piece)
        if row is not None:
            self.rows.append(row)
            self.numbers.append(self.state.base + piece.number)
            self.held += len(piece.data or b"")
            if len(self.rows) == segments.FRAME_ROWS or self.held > segments.FRAME_BYTES:
                self.flush()

    def flush(self) -> None:
        """What is collected becomes a frame."""
        if self.rows:
            self.write(b"".join(self.rows), self.numbers)
            self.rows.clear()
            self.numbers.clear()
        self.held = 0

    def write(self, rows: bytes, numbers: Sequence[int]) -> None:
        found = rows.split(b"\n")
        found.pop()  # what follows the last newline: nothing
        self.out.add(rows, numbers, map(row_hash, found))

    def exactly(self, piece: Piece) -> bytes | None:
        """The row's JSON without its id, and a newline; None once it is reported."""
        try:
            return orjson.dumps(self.row_of(piece), option=orjson.OPT_APPEND_NEWLINE)
        except BadRow as bad:
            self.issues.append(
                Issue("error", piece.number, bad.path, bad.code, bad.message, bad.params, self.name)
            )
            return None

    @property
    def name(self) -> str:
        """The file's name, where there are several."""
        return self.source.name if len(self.sources) > 1 else ""

    def row_of(self, piece: Piece) -> formats.Row:
        """The row of a piece in the form rows are kept in. Raises BadRow."""
        if piece.why:
            raise BadRow(piece.why.code, "", piece.why.message, **piece.why.params)
        if piece.problem:
            raise BadRow(f"json.{piece.problem}", "", PROBLEMS[piece.problem], at=piece.line)
        if piece.data is None:
            raise BadRow(
                "row.too_large",
                "",
                N_("The row is larger than %(most)s MiB."),
                most=self.most // 2**20,
            )
        found = parse(piece)
        state = self.state
        if not state.format:
            self.decide(found)
        mapping = (self.source.mapping or self.users) if state.mapped else None
        if state.format and state.kind not in ("", KINDS[state.format]):
            raise BadRow(
                "row.other_kind",
                "",
                N_(
                    "The rows of this file are of the kind “%(found)s”, and those before it of "
                    "the kind “%(kind)s”. A version has one kind of rows."
                ),
                found=KINDS[state.format],
                kind=state.kind,
            )
        row, left = formats.normalise(found, state.format, mapping)
        for name in left:
            if name in state.unused:
                state.unused[name][1] += 1
            elif len(state.unused) < MAX_FIELDS:
                state.unused[name] = [piece.number, 1, self.name]
        return row

    def decide(self, found: Any) -> None:
        """The first row that can says what format its file has."""
        state = self.state
        state.format = formats.detect(found)
        if state.format:
            self.read = self.reader()
        elif self.users and isinstance(found, dict):
            state.format, state.mapped = self.users["format"], True


def unused(state: Cursor) -> list[Issue]:
    """What was left out of good rows, once per field."""
    return [
        Issue(
            "warning",
            first,
            name,
            "field.unused",
            N_("The field “%(name)s” is not used and was left out. Rows that have it: %(count)s."),
            {"name": name, "count": count},
            file,
        )
        for name, (first, count, file) in sorted(state.unused.items())
    ]


def sample(sources: Sequence[Source], most: int, rows: int = 100) -> Iterator[list[Any]]:
    """The first rows of each file whose columns nobody named, as far as they can be read."""
    for source in sources:
        if source.mapping:
            continue
        found: list[Any] = []
        for number, piece in enumerate(reader.pieces(source.path, source.begin(), most)):
            if number == rows:
                break
            try:
                found.append(orjson.loads(piece.data or b""))
            except orjson.JSONDecodeError:
                continue
        yield found
