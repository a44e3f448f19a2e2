"""Equal rows, found by 16-byte hashes that lie on disk.

Memory holds 16 bytes for each row, and what it takes to tell a part of them apart.
"""

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SIZE = 16
PART = 500_000  # rows that are told apart at a time, more or less
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
    """The hashes of all rows, in two halves."""

    def __init__(self, files: Sequence[Hashes]) -> None:
        self.low, self.high = array("Q"), array("Q")
        for file in files:
            step, at = file.width // 8, file.at // 8
            for words in file.words():
                self.low += words[at::step]
                self.high += words[at + 1 :: step]

    def of(self, parts: int, part: int) -> Iterable[int]:
        """The first halves of a part. Equal rows are in the same one."""
        return self.low if parts == 1 else (one for one in self.low if one % parts == part)

    def rows(self, parts: int, part: int) -> Iterator[tuple[int, int]]:
        """(row, first half) of the rows of a part."""
        if parts == 1:
            return enumerate(self.low)
        return ((row, one) for row, one in enumerate(self.low) if one % parts == part)


def repeats(files: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """(row, the first row that is equal), for each row that repeats one before it.

    Rows are numbered from 0 through all files. The pairs come in a few runs, each in order.
    """
    table = Table(files)
    parts = parts_of(len(table.low))
    for part in range(parts):
        often = more_than_once(table.of(parts, part))
        if not often:
            continue
        first: dict[tuple[int, int], int] = {}
        for row, one in table.rows(parts, part):
            if one in often:
                found = first.setdefault((one, table.high[row]), row)
                if found != row:
                    yield row, found


def more_than_once(hashes: Iterable[int]) -> set[int]:
    seen: set[int] = set()
    often: set[int] = set()
    add = seen.add
    for one in hashes:
        if one in seen:
            often.add(one)
        else:
            add(one)
    return often


def common(mine: Sequence[Hashes], others: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """(row of mine, the first equal row of the others), for each that has one. In a few runs."""
    ours, theirs = Table(mine), Table(others)
    parts = parts_of(max(len(ours.low), len(theirs.low)))
    for part in range(parts):
        known: dict[tuple[int, int], int] = {}
        for row, one in theirs.rows(parts, part):
            known.setdefault((one, theirs.high[row]), row)
        for row, one in ours.rows(parts, part):
            if (found := known.get((one, ours.high[row]))) is not None:
                yield row, found


def parts_of(count: int) -> int:
    return count // PART + 1
