"""Equal rows, found by 16-byte hashes that lie on disk.

Memory holds 20 bytes for each row, and what it takes to tell a part of them apart.
"""

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SIZE = 16
FEW = 500_000  # rows that are told apart in one go; of more, PART at a time, more or less
PART = 200_000
CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Hashes:
    """A file with a hash for each of its rows: `width` bytes a row, the hash at `at`.

    Both are multiples of 8.
    """

    path: Path
    width: int = SIZE
    at: int = 0

    def words(self) -> "Iterator[array[int]]":
        """The file as 64-bit words, some rows at a time."""
        with self.path.open("rb") as file:
            while data := file.read(CHUNK // self.width * self.width):
                found = array("Q", data)
                if sys.byteorder == "big":
                    found.byteswap()
                yield found


class Table:
    """The hashes of all rows in two halves, the first of them in parts: equal rows share one."""

    def __init__(self, files: Sequence[Hashes], parts: int) -> None:
        self.low = [array("Q") for _ in range(parts)]
        self.rows = [array("I") for _ in range(parts)]  # whose they are, in order
        self.high = array("Q")  # of all rows, by number
        for file in files:
            step, at = file.width // 8, file.at // 8
            for words in file.words():
                self.add(words[at::step])
                self.high += words[at + 1 :: step]

    def add(self, found: "array[int]") -> None:
        """The first halves of the rows that follow those in `high`."""
        row, parts = len(self.high), len(self.low)
        if parts == 1:
            self.low[0] += found
            self.rows[0].extend(range(row, row + len(found)))
            return
        lows = [one.append for one in self.low]
        rows = [one.append for one in self.rows]
        for number, one in enumerate(found, start=row):
            part = one % parts
            lows[part](one)
            rows[part](number)

    def part(self, part: int, wanted: set[int]) -> list[tuple[int, tuple[int, int]]]:
        """(row, its hash) of the rows of a part whose first half is wanted."""
        high, found = self.high, zip(self.rows[part], self.low[part], strict=True)
        return [(row, (one, high[row])) for row, one in found if one in wanted]


def repeats(files: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """(row, the first row that is equal), for each row that repeats one before it.

    Rows are numbered from 0 through all files. The pairs come in a few runs, each in order.
    """
    table = Table(files, parts_of(files))
    for part, low in enumerate(table.low):
        often = more_than_once(low)
        if not often:
            continue
        first: dict[tuple[int, int], int] = {}
        for row, one in table.part(part, often):
            found = first.setdefault(one, row)
            if found != row:
                yield row, found


def more_than_once(hashes: Iterable[int]) -> set[int]:
    seen: set[int] = set()
    add = seen.add  # says None
    return {one for one in hashes if one in seen or add(one)}


def common(mine: Sequence[Hashes], others: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """(row of mine, the first equal row of the others), for each that has one. In a few runs."""
    parts = max(parts_of(mine), parts_of(others))
    ours, theirs = Table(mine, parts), Table(others, parts)
    for part in range(parts):
        both = set(ours.low[part]).intersection(theirs.low[part])
        known: dict[tuple[int, int], int] = {}
        for row, one in theirs.part(part, both):
            known.setdefault(one, row)
        for row, one in ours.part(part, both):
            if (found := known.get(one)) is not None:
                yield row, found


def parts_of(files: Sequence[Hashes]) -> int:
    rows = sum(file.path.stat().st_size // file.width for file in files)
    return rows // PART + 1 if rows > FEW else 1
