"""Rows on disk: JSONL in independent frames, with an index of where each frame begins.

A segment is a directory, written once and never changed: `rows.jsonl.zst` (zstd frames) and
`rows.idx`, pairs of 64-bit numbers, the first row and the offset of each frame and, last, the
number of rows and of bytes. Any row is reached by reading one frame.

While an upload is being checked its segments are plain: the rows lie in `rows.jsonl` without
compression and without their ids, whose numbers are in `rows.ids` (64 bits each, after the ids'
prefix); `rows.hash` holds 16 bytes for each row, and equal rows have equal ones.
Pure: the stages read their data with it too.
"""

import hashlib
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import zstandard

DATA, INDEX = "rows.jsonl.zst", "rows.idx"
PLAIN, IDS, HASHES = "rows.jsonl", "rows.ids", "rows.hash"
PREFIX_BYTES = 120
HASH_BYTES = 16
FRAME_ROWS = 250
FRAME_BYTES = 2**17  # of JSONL: what has to be unpacked to read one row
LEVEL = 2


@dataclass(frozen=True)
class Written:
    rows: int
    sha256: str  # of the JSONL: the same rows give the same name, however they were compressed

    @property
    def artefact(self) -> str:
        return f"segments/{self.sha256}"


@dataclass(frozen=True)
class Index:
    rows: int
    starts: "array[int]"  # number of each frame's first row
    offsets: "array[int]"  # of each frame in bytes, and the end of the last
    plain: bool


# -- writing -----------------------------------------------------------------------------


def write(rows: Iterable[dict[str, Any]], directory: Path) -> Written:
    """Write `rows` into `directory`, one frame at a time in memory."""
    return pack(map(orjson.dumps, rows), directory)


def pack(lines: Iterable[bytes], directory: Path) -> Written:
    """As `write`, for rows that are JSON already, each without a newline."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    digest = hashlib.sha256()
    table = array("Q")
    total = offset = size = 0
    held: list[bytes] = []
    with (directory / DATA).open("wb") as file:

        def close_frame() -> None:
            nonlocal offset, size, total
            held.append(b"")
            data = b"\n".join(held)
            digest.update(data)
            table.extend((total, offset))
            offset += file.write(compressor.compress(data))
            total, size = total + len(held) - 1, 0
            held.clear()

        for line in lines:
            if held and (len(held) == FRAME_ROWS or size + len(line) >= FRAME_BYTES):
                close_frame()
            held.append(line)
            size += len(line) + 1
        if held:
            close_frame()
    table.extend((total, offset))
    save(table, directory)
    return Written(total, digest.hexdigest())


class Plain:
    """Writes a plain segment, whose rows have ids `prefix.number`."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self.directory, self.prefix = directory, prefix
        self.rows = self.offset = 0
        self.table = array("Q")

    def __enter__(self) -> Self:
        self.file = (self.directory / PLAIN).open("wb")
        self.ids = (self.directory / IDS).open("wb")
        self.ids.write(self.prefix.encode().ljust(PREFIX_BYTES, b"\0"))
        self.hashes = (self.directory / HASHES).open("wb")
        return self

    def add(self, lines: bytes, numbers: Sequence[int], hashes: Iterable[bytes]) -> None:
        """A frame: rows without ids, as JSONL; their numbers; 16 bytes for each."""
        self.table.extend((self.rows, self.offset))
        self.offset += self.file.write(lines)
        self.ids.write(little(array("Q", numbers)))
        self.hashes.write(b"".join(hashes))
        self.rows += len(numbers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self.file, self.ids, self.hashes):
            file.close()
        self.table.extend((self.rows, self.offset))
        save(self.table, self.directory)


def little(table: "array[int]") -> bytes:
    if sys.byteorder == "big":
        table = table[:]
        table.byteswap()
    return table.tobytes()


def numbers(data: bytes) -> "array[int]":
    table = array("Q")
    table.frombytes(data)
    if sys.byteorder == "big":
        table.byteswap()
    return table


def save(table: "array[int]", directory: Path) -> None:
    (directory / INDEX).write_bytes(little(table))


# -- reading -----------------------------------------------------------------------------


@lru_cache(maxsize=256)
def index(directory: Path) -> Index:
    """Raises FileNotFoundError. Cached for ever: segments do not change."""
    data = (directory / INDEX).read_bytes()
    plain = not (directory / DATA).exists()
    if data.startswith(b"{"):  # as segments were first written: {rows, frames: [[row, at, bytes]]}
        found = orjson.loads(data)
        frames = found["frames"]
        ends = [at + length for _, at, length in frames[-1:]]
        offsets = array("Q", [at for _, at, _ in frames] + (ends or [0]))
        return Index(found["rows"], array("Q", [row for row, _, _ in frames]), offsets, plain)
    table = numbers(data)
    return Index(table[-2], table[:-2:2], table[1::2], plain)


def lines(directory: Path, start: int = 0, count: int | None = None) -> Iterator[bytes]:
    """The JSON of rows `start` to `start + count`, each without its newline."""
    known = index(directory)
    if start >= known.rows or count == 0:
        return
    frames = plain_frames if known.plain else packed_frames
    first = bisect_right(known.starts, start) - 1
    skip = start - known.starts[first]
    left = known.rows - start if count is None else count
    for frame in frames(directory, known, first):
        yield from frame[skip : skip + left]
        left -= len(frame) - skip
        skip = 0
        if left <= 0:
            return


def packed_frames(directory: Path, known: Index, first: int) -> Iterator[list[bytes]]:
    decompressor = zstandard.ZstdDecompressor()
    with (directory / DATA).open("rb", buffering=0) as file:
        file.seek(known.offsets[first])
        for at in range(first, len(known.starts)):
            data = file.read(known.offsets[at + 1] - known.offsets[at])
            frame = decompressor.decompress(data).split(b"\n")
            frame.pop()  # what follows the last newline: nothing
            yield frame


def plain_frames(directory: Path, known: Index, first: int) -> Iterator[list[bytes]]:
    with (directory / PLAIN).open("rb", buffering=0) as file, (directory / IDS).open("rb") as ids:
        prefix = ids.read(PREFIX_BYTES).rstrip(b"\0")
        file.seek(known.offsets[first])
        ids.seek(PREFIX_BYTES + 8 * known.starts[first])
        for at in range(first, len(known.starts)):
            frame = file.read(known.offsets[at + 1] - known.offsets[at]).split(b"\n")
            frame.pop()
            named = zip(numbers(ids.read(8 * len(frame))), frame, strict=True)
            yield [b'{"id":"%b.%d",%b' % (prefix, number, line[1:]) for number, line in named]


def hashes(directory: Path) -> Iterator[bytes] | None:
    """The hash of each row, where they lie beside the rows: in a plain segment."""
    return stored(directory / HASHES) if index(directory).plain else None


def stored(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while found := source.read(HASH_BYTES):
            yield found


def read(directory: Path, start: int = 0, count: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows `start` to `start + count`: `{id, messages: [{role, content, …}], tools?}`."""
    return map(orjson.loads, lines(directory, start, count))
