"""Validates an upload, a stretch at a time: good rows into a segment, bad ones into issues.

A stretch ends after `STEP_BYTES` of the file, so that it takes seconds, and its cursor says
where the next begins: a validation that is killed goes on from the last stretch that was
stored. The same stretch gives the same segment, however often it is read.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.datasets import formats, reader, segments
from app.datasets.formats import BadRow
from app.datasets.reader import Piece, Place
from app.errors import N_

STEP_BYTES = 128 * 2**20
MAX_ISSUES = 100_000  # a file with more bad rows than this is refused as a whole
MAX_FIELDS = 50  # different unused fields that are named

PROBLEMS = {
    "unclosed": N_("The array is never closed with “]”: the file may have been cut short."),
    "trailing": N_("The array ends on line %(at)s; what follows it was not read."),
}


@dataclass(frozen=True)
class Issue:
    """Why a row was left out (`error`), or what else should be known of it (`warning`)."""

    level: str
    line: int  # of JSONL; in an array, the number of the element
    path: str
    code: str
    message: str  # msgid
    params: dict[str, Any]


@dataclass
class Cursor:
    """All that a stretch needs from those before it. Kept as JSON in the version's row."""

    place: Place
    format: str = ""  # known once a row has said so
    # fields that no row of this format has: how often, and the line where first
    unused: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Cursor":
        return cls(Place(**data["place"]), data["format"], data["unused"])


@dataclass
class Step:
    cursor: Cursor
    written: segments.Written
    issues: list[Issue]
    done: bool


def begin(source: Path) -> Cursor:
    """Raises Invalid for a file that cannot be a dataset."""
    return Cursor(reader.begin(source))


def step(source: Path, cursor: Cursor, directory: Path, prefix: str, most: int) -> Step:
    """Read one stretch from `cursor`, writing its good rows as a segment into `directory`.

    Row ids are `prefix.number`. `most` is the longest row, in bytes. Memory holds a frame of
    rows and the issues, whatever the size of the file.
    """
    state = Cursor(cursor.place, cursor.format, dict(cursor.unused))
    issues: list[Issue] = []
    done = True

    def rows() -> Iterator[formats.Row]:
        nonlocal done
        for piece in reader.pieces(source, cursor.place, most):
            full = state.place.offset - cursor.place.offset >= STEP_BYTES
            if full or len(issues) > MAX_ISSUES:
                done = False
                return
            try:
                yield {"id": f"{prefix}.{piece.number}", **row_of(piece, state, most)}
            except BadRow as bad:
                issues.append(
                    Issue("error", piece.number, bad.path, bad.code, bad.message, bad.params)
                )
            state.place = piece.after

    written = segments.write(rows(), directory)
    if done:
        issues += warnings(state)
    return Step(state, written, issues, done)


def row_of(piece: Piece, state: Cursor, most: int) -> formats.Row:
    """The row of a piece in the form rows are kept in. Raises BadRow."""
    if piece.problem:
        raise BadRow(f"json.{piece.problem}", "", PROBLEMS[piece.problem], at=piece.line)
    if piece.data is None:
        raise BadRow(
            "row.too_large", "", N_("The row is larger than %(most)s MiB."), most=most // 2**20
        )
    found = parse(piece)
    state.format = state.format or formats.detect(found)
    row, unused = formats.normalise(found, state.format)
    for name in unused:
        if name in state.unused:
            first, count = state.unused[name]
            state.unused[name] = [first, count + 1]
        elif len(state.unused) < MAX_FIELDS:
            state.unused[name] = [piece.number, 1]
    return row


def parse(piece: Piece) -> Any:
    """Raises BadRow for what is not UTF-8 or not JSON, or nested past what can be stored."""
    data = piece.data or b""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        reason, at = error.msg, error.pos
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BadRow(
            "text.encoding",
            "",
            N_("The row is not valid UTF-8, at byte %(byte)s of it."),
            byte=error.start + 1,
        ) from None
    if not data:
        raise BadRow("json.empty", "", N_("An element is missing: there is a comma too many."))
    if "depth limit" in reason:
        raise BadRow("json.deep", "", N_("The nesting is too deep."))
    if piece.after.shape == "lines":
        raise BadRow(
            "json.invalid",
            "",
            N_("This line is not valid JSON, at character %(at)s: %(reason)s."),
            at=at + 1,
            reason=formats.shown(reason),
        )
    raise BadRow(
        "json.invalid",
        "",
        N_("This element, which begins on line %(begins)s, is not valid JSON: %(reason)s."),
        begins=piece.line,
        reason=formats.shown(reason),
    )


def warnings(state: Cursor) -> list[Issue]:
    """What was left out of good rows, once per field."""
    return [
        Issue(
            "warning",
            first,
            name,
            "field.unused",
            N_("The field “%(name)s” is not used and was left out. Rows that have it: %(count)s."),
            {"name": name, "count": count},
        )
        for name, (first, count) in sorted(state.unused.items())
    ]
