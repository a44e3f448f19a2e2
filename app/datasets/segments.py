"""Rows on disk: JSONL in independent zstd frames, with an index of where each frame begins.

A segment is a directory of two files, written once and never changed:
`rows.jsonl.zst` and `rows.idx`, the JSON object `{rows, frames: [[row, offset, length], …]}`.
Any row is reached by reading one frame. Pure: the stages read their data with it too.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import zstandard

DATA, INDEX = "rows.jsonl.zst", "rows.idx"
FRAME_ROWS = 1000
FRAME_BYTES = 2**20  # of JSONL, so that a frame of long rows stays cheap to open


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
    starts: list[int]  # number of each frame's first row
    places: list[tuple[int, int]]  # its offset and length in bytes


def write(rows: Iterable[dict[str, Any]], directory: Path) -> Written:
    """Write `rows` into `directory`, one frame at a time in memory."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    digest = hashlib.sha256()
    frames: list[tuple[int, int, int]] = []
    total = offset = 0
    lines: list[bytes] = []
    size = 0
    with (directory / DATA).open("wb") as file:

        def close_frame() -> None:
            nonlocal offset, size, total
            data = b"".join(lines)
            digest.update(data)
            length = file.write(compressor.compress(data))
            frames.append((total, offset, length))
            total, offset, size = total + len(lines), offset + length, 0
            lines.clear()

        for row in rows:
            line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            if lines and (len(lines) == FRAME_ROWS or size + len(line) > FRAME_BYTES):
                close_frame()
            lines.append(line)
            size += len(line)
        if lines:
            close_frame()
    (directory / INDEX).write_bytes(orjson.dumps({"rows": total, "frames": frames}))
    return Written(total, digest.hexdigest())


@lru_cache(maxsize=128)
def index(directory: Path) -> Index:
    """Raises FileNotFoundError. Cached for ever: segments do not change."""
    found = orjson.loads((directory / INDEX).read_bytes())
    frames = found["frames"]
    return Index(
        found["rows"],
        [row for row, _, _ in frames],
        [(offset, length) for _, offset, length in frames],
    )


def lines(directory: Path, start: int = 0, count: int | None = None) -> Iterator[bytes]:
    """The JSON of rows `start` to `start + count`, each without its newline."""
    known = index(directory)
    if start >= known.rows or count == 0:
        return
    decompressor = zstandard.ZstdDecompressor()
    first = bisect_right(known.starts, start) - 1
    skip = start - known.starts[first]
    left = known.rows - start if count is None else count
    with (directory / DATA).open("rb") as file:
        file.seek(known.places[first][0])
        for _, length in islice(known.places, first, None):
            frame = decompressor.decompress(file.read(length)).split(b"\n")
            frame.pop()  # what follows the last newline: nothing
            yield from frame[skip : skip + left]
            left -= len(frame) - skip
            skip = 0
            if left <= 0:
                return


def read(directory: Path, start: int = 0, count: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows `start` to `start + count`: `{id, messages: [{role, content, …}], tools?}`."""
    return map(orjson.loads, lines(directory, start, count))
