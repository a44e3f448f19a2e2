"""Reading the rows of a version: pages, search, download. No database session is needed."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app import storage
from app.datasets.rows import facts, search, segments, warnings
from app.datasets.rows.languages import language
from app.datasets.rows.search import Filters
from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict, NotFound

PAGE_BYTES = 16 * 2**20  # a page of enormous rows is cut short
SCAN_SECONDS = 1.0  # a search gives back what it found after this; the reader may go on
PRETTY_CHARS = 100_000
SUMMARY_CHARS = 160
NEAR = 64  # rows that are rather read over than jumped over


@dataclass
class Page:
    """Rows, each with its number in the version (from 0).

    An offset is the number of a row, also in a search: its page begins with the first match from
    there on. `matches` is how many rows a search finds in all, None where that is not known.
    """

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    next_offset: int = 0  # where the next page begins
    has_more: bool = False
    matches: int | None = None
    before: int = 0  # matches that come before this page, if `matches` is known
    previous: int | None = None  # offset of the page before this one, if that is known
    last: int | None = None  # offset of the last page, if that is known


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


def page(version: DatasetVersion, *, offset: int, limit: int, q: str = "", **wanted: Any) -> Page:
    """Up to `limit` rows from number `offset` on: those that contain `q` and fit what is wanted
    (role, min_length, max_length, language, flag: see `search.wanted`). Raises Invalid.

    Upper and lower case of letters are the same to a search. While the facts it needs are not
    there yet, it goes through the rows in order and stops after a second.
    """
    filters = search.wanted(q, **wanted)
    if not filters:
        return scan(version, offset, limit, None)
    numbers = search.find(version, filters)
    if numbers is None:
        return scan(version, offset, limit, finder(filters))
    return chosen(version, numbers, offset, limit)


def chosen(version: DatasetVersion, numbers: Sequence[int], offset: int, limit: int) -> Page:
    """The page of `numbers`, all that a search found, that begins at `offset`."""
    at = bisect_left(numbers, offset)
    found = Page(next_offset=offset, matches=len(numbers), before=at)
    if at:
        found.previous = numbers[max(at - limit, 0)]
    if len(numbers) > limit:
        found.last = numbers[(len(numbers) - 1) // limit * limit]
    size = 0
    for number, line in some(version, numbers[at : at + limit]):
        found.rows.append((number, orjson.loads(line)))
        found.next_offset = number + 1
        size += len(line)
        if size > PAGE_BYTES:
            break
    found.has_more = at + len(found.rows) < len(numbers)
    return found


def some(version: DatasetVersion, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """The JSON of the rows with these numbers, which ascend."""
    stream: Iterator[bytes] = iter(())
    at = -NEAR
    for number in numbers:
        if number - at >= NEAR:
            stream, at = lines(version, number), number
        line = b""
        while at <= number:
            line, at = next(stream), at + 1
        yield number, line


def scan(
    version: DatasetVersion, offset: int, limit: int, fits: Callable[[bytes], bool] | None
) -> Page:
    """A page by going through the rows; with `fits`, for at most a second."""
    found = Page(next_offset=offset)
    size = 0
    until = time.monotonic() + SCAN_SECONDS
    for number, line in enumerate(lines(version, offset), start=offset):
        full = len(found.rows) == limit or size > PAGE_BYTES
        look = fits and number > offset and (number - offset) % 256 == 0
        if full or (look and time.monotonic() > until):
            found.has_more = True
            break
        found.next_offset = number + 1
        if fits and not fits(line):
            continue
        size += len(line)
        found.rows.append((number, orjson.loads(line)))
    return found


def finder(filters: Filters) -> Callable[[bytes], bool]:
    """Whether a row, given its JSON, is one that a search finds. Raises Conflict for what only
    all rows together can say.
    """
    if filters.flag == search.DUPLICATE:
        raise Conflict(
            N_("Which rows repeat others is not known yet, or not while the draft has changes."),
            code="not_looked_at",
        )
    q = filters.q
    # in the file, a text stands as JSON: only what contains the escaped form can match, as long
    # as no letter has two cases
    needle = orjson.dumps(q)[1:-1]
    caseless = q.upper() == q.lower()

    def fits(line: bytes) -> bool:
        if (
            q
            and needle not in (line if caseless else line.lower())
            and (caseless or line.isascii())
        ):
            return False
        row = orjson.loads(line)
        text = facts.searched(row)
        if not filters.min_length <= len(text) <= filters.max_length:
            return False
        if filters.role and not facts.roles(row) & facts.ROLES[filters.role]:
            return False
        if filters.language and language(text[: facts.LOOKED_AT]) != filters.language:
            return False
        if filters.flag and not warnings.flags(warnings.remarks(row)) & warnings.BIT[filters.flag]:
            return False
        return q in text.casefold()

    return fits


def row(version: DatasetVersion, number: int) -> dict[str, Any]:
    """Raises NotFound."""
    for line in lines(version, number) if 0 <= number < version.rows else ():
        found: dict[str, Any] = orjson.loads(line)
        return found
    raise NotFound(N_("There is no such row."))


def summary(row: dict[str, Any]) -> tuple[str, str]:
    """The beginnings of the first question and of the last answer, or of a text, for a list."""
    if "text" in row:
        return row["text"][:SUMMARY_CHARS], row["text"][SUMMARY_CHARS : 2 * SUMMARY_CHARS]
    messages = row["messages"]
    first = next((one for one in messages if one["role"] == "user"), messages[0])
    last = row.get("chosen", messages[-1])
    return first["content"][:SUMMARY_CHARS], last["content"][:SUMMARY_CHARS]


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
