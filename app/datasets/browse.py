"""Reading the rows of a version: pages, search, download. No database session is needed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from app import storage
from app.datasets import segments
from app.datasets.tables import DatasetVersion
from app.errors import N_, NotFound

PAGE_BYTES = 16 * 2**20  # a page of enormous rows is cut short
SCAN_SECONDS = 1.0  # a search gives back what it found after this; the reader may go on
PRETTY_CHARS = 100_000
SUMMARY_CHARS = 160


@dataclass
class Page:
    """Rows, each with its number in the version (from 0)."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    next_offset: int = 0  # where the next page begins
    has_more: bool = False


def lines(version: DatasetVersion, start: int = 0) -> Iterator[bytes]:
    """The JSON of each row from number `start` on. Raises NotFound if the files are gone."""
    for segment in version.segments:
        if start >= segment["rows"]:
            start -= segment["rows"]
            continue
        try:
            directory = storage.fetch(segment["artefact"])
        except FileNotFoundError:
            raise NotFound(N_("The rows of this version are gone.")) from None
        yield from segments.lines(directory, start)
        start = 0


def page(version: DatasetVersion, *, offset: int, limit: int, q: str = "") -> Page:
    """Up to `limit` rows from number `offset` on; with `q`, those that contain it.

    A search goes through the rows in order and stops after a second: `next_offset` says where
    to go on. Upper and lower case of Latin letters are the same to it.
    """
    found = Page(next_offset=offset)
    wanted = q.encode(errors="replace").lower()
    # in the file, a text stands as JSON: only what contains the escaped form can match
    needle = orjson.dumps(wanted.decode())[1:-1].lower()
    size = 0
    until = time.monotonic() + SCAN_SECONDS
    for number, line in enumerate(lines(version, offset), start=offset):
        full = len(found.rows) == limit or size > PAGE_BYTES
        look = wanted and number > offset and (number - offset) % 256 == 0
        if full or (look and time.monotonic() > until):
            found.has_more = True
            break
        found.next_offset = number + 1
        if wanted and needle not in line.lower():
            continue
        row = orjson.loads(line)
        if wanted and not contains(row, wanted):
            continue
        size += len(line)
        found.rows.append((number, row))
    return found


def contains(row: dict[str, Any], wanted: bytes) -> bool:
    """Whether a message says it: the names of fields do not count."""
    return any(wanted in message["content"].encode().lower() for message in row["messages"])


def row(version: DatasetVersion, number: int) -> dict[str, Any]:
    """Raises NotFound."""
    for line in lines(version, number) if 0 <= number < version.rows else ():
        found: dict[str, Any] = orjson.loads(line)
        return found
    raise NotFound(N_("There is no such row."))


def summary(row: dict[str, Any]) -> tuple[str, str]:
    """The beginnings of the first question and of the last answer, for a list."""
    first = next((one for one in row["messages"] if one["role"] == "user"), row["messages"][0])
    return first["content"][:SUMMARY_CHARS], row["messages"][-1]["content"][:SUMMARY_CHARS]


def pretty(row: dict[str, Any]) -> str:
    """Indented JSON for reading, cut if it is very long."""
    text = orjson.dumps(row, option=orjson.OPT_INDENT_2).decode()
    return text if len(text) <= PRETTY_CHARS else text[:PRETTY_CHARS] + " …"


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
