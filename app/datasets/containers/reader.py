"""Cuts an uploaded file into rows without holding more than one of them in memory.

JSONL is cut at line ends, a JSON array at the commas between its elements; neither is parsed
here, so that one broken row does not hide those after it. Reading can begin again at any
`Place` that was reached. Pure: only the standard library.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import N_, Invalid

CHUNK = 2**20
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
SNIFF = 4096
MARK = b"!"  # no JSON begins like this

# how files that people take for data begin
MAGIC = {
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP, Excel (xlsx) or Word (docx)",
    b"\xd0\xcf\x11\xe0": "Excel (xls) or Word (doc)",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "RAR",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP, WAV or AVI",
    b"SQLite format 3": "SQLite",
    b"\x7fELF": "ELF",
    b"\x80\x02": "pickle",
    b"\x80\x04": "pickle",
    b"\x80\x05": "pickle",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")

# What decides where an element ends. A string that goes on in the next chunk matches by its
# quote only. No string goes over a line's end, so that a missing quote breaks one element and
# not all that follow.
STRING = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|' + STRING + rb')*+["\[\]{},]', re.DOTALL)
NESTED = re.compile(rb'(?:[^"\[\]{}]++|' + STRING + rb')*+["\[\]{}]', re.DOTALL)
IN_STRING = re.compile(rb'(?:[^"\\\n]++|\\.)*+["\\\n]', re.DOTALL)


@dataclass(frozen=True)
class Place:
    """How far a file is read."""

    shape: str  # lines, spool: lines that we wrote, array, or tail: after an array's end
    offset: int = 0  # bytes
    number: int = 0  # lines of JSONL, or elements of an array, before this place
    line: int = 1  # the line of the file that this place is on


@dataclass(frozen=True)
class Problem:
    """Why a row of a spooled file could not be read: what a `BadRow` says."""

    code: str
    message: str  # msgid
    params: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """One row as it stands in the file. `data` is None for what is too long to look at."""

    number: int  # 1-based: the line of JSONL, the element of an array
    line: int  # the line of the file it begins on
    data: bytes | None
    after: Place
    problem: str = ""  # unclosed or trailing: the array itself is broken here
    why: "Problem | None" = None  # this row was lost while its file was unpacked


def begin(path: Path) -> Place:
    """Where the rows begin. Raises Invalid for what is no text with JSON rows."""
    with path.open("rb") as file:
        head = file.read(SNIFF)
    if not head.strip(BLANK):
        raise Invalid(N_("The file is empty."), code="file.empty", field="file")
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            raise Invalid(
                N_(
                    "This is a file of the type %(type)s. A dataset is uploaded as JSONL "
                    "(one JSON object per line) or as a JSON array, in UTF-8."
                ),
                code="file.type",
                field="file",
                type=name,
            )
    if head.startswith(UTF16) or head[:200].count(0) > 40:
        raise Invalid(
            N_("The file is not UTF-8 text. Save it as UTF-8 and upload it again."),
            code="file.encoding",
            field="file",
        )
    start = len(BOM) if head.startswith(BOM) else 0
    blank = len(head) - start - len(head[start:].lstrip(BLANK))
    first, _, more = head[start + blank :].partition(b"\n")
    if first.startswith(b"[") and not (more.strip(BLANK) and whole(first)):
        lines = head[: start + blank].count(b"\n")
        return Place("array", offset=start + blank + 1, line=1 + lines)
    return Place("lines", offset=start)


def whole(line: bytes) -> bool:
    """Whether a line is JSON by itself: the row of a JSONL file, if only a wrong one."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def problem(line: bytes) -> Problem | None:
    """What a line of a spooled file says in place of a row. Only for such files: others lie."""
    if not line.startswith(MARK):
        return None
    code, message, params = json.loads(line[len(MARK) :])
    return Problem(code, message, params)


def told(code: str, message: str, **params: Any) -> bytes:
    """The line of a spooled file that `problem` reads."""
    return MARK + json.dumps([code, message, params]).encode()


def pieces(path: Path, place: Place, most: int) -> Iterator[Piece]:
    """The rows from `place` on. A row of more than `most` bytes comes without its data."""
    with path.open("rb") as file:
        file.seek(place.offset)
        if place.shape in ("lines", "spool"):
            yield from cut_lines(file, place, most)
        elif place.shape == "array":
            yield from cut_array(file, place, most)
        else:
            yield from cut_tail(file, place)


def cut_lines(file: BinaryIO, place: Place, most: int) -> Iterator[Piece]:
    """Blank lines are counted, and skipped."""
    offset, number = place.offset, place.number
    while line := file.readline(most + 2):
        number += 1
        offset += len(line)
        data: bytes | None = line.strip(BLANK)
        if len(line) > most:
            data = data if data is not None and len(data) <= most else None
            while not line.endswith(b"\n") and (line := file.readline(CHUNK)):
                offset += len(line)
                data = None if line.strip(BLANK) else data
        if data != b"":
            after = Place(place.shape, offset, number, number + 1)
            why = problem(data) if data and place.shape == "spool" else None
            yield Piece(number, number, b"" if why else data, after, why=why)


class Element:
    """The bytes of the array element being read, as long as they are few enough."""

    def __init__(self, line: int, most: int) -> None:
        self.line = line
        self.most = most + CHUNK  # the white space around it is in here, and does not count
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self.most:
            self.parts.clear()
        else:
            self.parts.append(part)

    def finish(self) -> bytes | None:
        """The element without white space; `line` becomes the one it begins on."""
        if self.size > self.most:
            return None
        data = b"".join(self.parts).lstrip(BLANK)
        self.line += b"".join(self.parts).count(b"\n") - data.count(b"\n")
        data = data.rstrip(BLANK)
        return data if len(data) <= self.most - CHUNK else None


def cut_array(file: BinaryIO, place: Place, most: int) -> Iterator[Piece]:
    """Elements lie between commas that are in no string and in no bracket.

    What lies between is handed on as it is: whether it is valid JSON, parsing will say.
    """
    offset, number, line = place.offset, place.number, place.line
    depth = 0  # of brackets, the array's own not counted
    in_string = False
    escaped = 0  # 1 if the last chunk ended in a backslash inside a string
    element = Element(line, most)
    while chunk := file.read(CHUNK):
        start, at, escaped = 0, escaped, 0
        while True:
            tokens = IN_STRING if in_string else NESTED if depth else BETWEEN
            found = tokens.match(chunk, at)
            if found is None:
                break
            at = found.end()
            token = chunk[at - 1 : at]
            if in_string:
                in_string = token == b"\\"  # the chunk's last: it hides the next one's first
                escaped = int(in_string)
            elif token == b'"':
                in_string = True
            elif token in b"[{":
                depth += 1
            elif depth:
                depth -= token in b"]}"
            elif token in b",]":
                part = chunk[start : at - 1]
                element.add(part)
                offset, line, start = offset + at - start, line + part.count(b"\n"), at
                data = element.finish()
                last = token == b"]"
                if data != b"" or not last or number:  # `[]` has no element
                    number += 1
                    shape = "tail" if last else "array"
                    yield Piece(number, element.line, data, Place(shape, offset, number, line))
                if last:
                    file.seek(offset)
                    yield from cut_tail(file, Place("tail", offset, number, line))
                    return
                element = Element(line, most)
        part = chunk[start:]
        element.add(part)
        offset, line = offset + len(part), line + part.count(b"\n")
    data = element.finish()
    if data != b"":
        number += 1
        yield Piece(number, element.line, data, Place("array", offset, number, line))
    yield Piece(number + 1, line, b"", Place("array", offset, number + 1, line), "unclosed")


def cut_tail(file: BinaryIO, place: Place) -> Iterator[Piece]:
    """After the array's end nothing may follow."""
    while chunk := file.read(CHUNK):
        if chunk.strip(BLANK):
            number = place.number + 1
            after = Place("tail", place.offset, number, place.line)
            yield Piece(number, place.line, b"", after, "trailing")
            return
