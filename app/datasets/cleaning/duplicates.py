"""Rows seen before: the very same, nearly the same by simhash, nearly the same by MinHash.

Of rows that are alike the first stays. What was seen lies in an SQLite file, so memory stays small
whatever the number of rows; the file says how many rows it knows. The same rows always leave the
same entries, and a row is compared with earlier ones only, so a stretch may be done twice.
"""

import sqlite3
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import orjson
from rensa import RMinHash

from app.datasets.cleaning.passages import Passage

PERMUTATIONS = 128
SEED = 1
SURE = 0.9  # how likely a pair at the threshold is to be compared at all
CANDIDATES = 200  # rows that one row is compared with
CACHE_KIB = 64 * 1024

SCHEMA = """
    create table if not exists state (rows integer not null);
    create table if not exists keys (step integer, key blob, row integer,
        primary key (step, key, row)) without rowid;
    create table if not exists marks (step integer, row integer, mark blob,
        primary key (step, row)) without rowid;
"""


class Index:
    """What was seen, by the number of the pipeline's step. In memory without a path."""

    def __init__(self, path: Path | None = None) -> None:
        self.db = opened(path)

    @property
    def rows(self) -> int:
        """How many rows were looked at, of which some were kept."""
        found = self.db.execute("select max(rows) from state").fetchone()[0]
        return int(found or 0)

    def commit(self, rows: int) -> None:
        """All rows before number `rows` have been looked at."""
        self.db.execute("insert into state values (?)", (rows,))
        self.db.commit()

    def first(self, step: int, keys: Sequence[bytes], before: int) -> list[int]:
        """Rows before number `before` that share a key, the earliest first."""
        places = ",".join("?" * len(keys))
        query = (
            f"select distinct row from keys where step = ? and key in ({places})"  # noqa: S608 - only question marks
            f" and row < ? order by row limit {CANDIDATES}"
        )
        return [row for (row,) in self.db.execute(query, (step, *keys, before))]

    def mark(self, step: int, row: int) -> bytes:
        query = "select mark from marks where step = ? and row = ?"
        found: bytes = self.db.execute(query, (step, row)).fetchone()[0]
        return found

    def add(self, step: int, row: int, keys: Iterable[bytes], mark: bytes = b"") -> None:
        rows = ((step, key, row) for key in keys)
        self.db.executemany("insert or ignore into keys values (?, ?, ?)", rows)
        if mark:
            self.db.execute("insert or replace into marks values (?, ?, ?)", (step, row, mark))

    def close(self) -> None:
        self.db.close()


def opened(path: Path | None) -> sqlite3.Connection:
    """A damaged file is begun anew: the rows it knew are then looked at again."""
    if path is None:
        return prepared(sqlite3.connect(":memory:"))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return prepared(sqlite3.connect(path, timeout=60))
    except sqlite3.DatabaseError:
        remove(path)
        return prepared(sqlite3.connect(path, timeout=60))


def prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    db.execute("pragma journal_mode = wal")  # a killed process leaves whole stretches only
    db.execute("pragma synchronous = off")
    db.execute(f"pragma cache_size = -{CACHE_KIB}")
    db.executescript(SCHEMA)
    return db


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


# -- the same ----------------------------------------------------------------------------


def same(row: dict[str, Any], index: Index, step: int, number: int) -> int | None:
    """The number of an earlier row with the same content, ids aside; else remember this one."""
    content = {name: value for name, value in row.items() if name != "id"}
    key = blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
    if found := index.first(step, [key], number):
        return found[0]
    index.add(step, number, [key])
    return None


# -- simhash -----------------------------------------------------------------------------


def shingles(passage: Passage, size: int) -> set[str]:
    """Runs of `size` words, as a set; of a shorter text, all of it."""
    found = passage.words
    if len(found) <= size:
        return {" ".join(found)} if found else {passage.head.strip()}
    return {" ".join(found[at : at + size]) for at in range(len(found) - size + 1)}


@lru_cache
def spread() -> list[int]:
    """For each byte, its bits 32 bits apart: sums of these count the set bits of many bytes."""
    return [sum((byte >> bit & 1) << (32 * bit) for bit in range(8)) for byte in range(256)]


def simhash(features: set[str]) -> int:
    """64 bits, of which few differ between sets that differ in few features."""
    table = spread()
    sums = [0] * 8
    for feature in features:
        for at, byte in enumerate(blake2b(feature.encode(), digest_size=8).digest()):
            sums[at] += table[byte]
    half = len(features) / 2
    bits = 0
    for total in sums:
        for bit in range(8):
            bits = bits << 1 | ((total >> (32 * bit) & 0xFFFFFFFF) > half)
    return bits


@lru_cache
def blocks(distance: int) -> list[int]:
    """Masks, of which two hashes at most `distance` bits apart agree in at least one.

    The bits are cut in distance + 2 blocks: at least two of them stay untouched.
    """
    cuts = [64 * at // (distance + 2) for at in range(distance + 3)]
    each = [(1 << high) - (1 << low) for low, high in pairwise(cuts)]
    return [one | other for one, other in combinations(each, 2)]


def alike(passage: Passage, index: Index, step: int, number: int, distance: int) -> int | None:
    """The number of an earlier row whose simhash is at most `distance` bits away."""
    mine = simhash(shingles(passage, 3))
    keys = [
        bytes([at]) + (mine & mask).to_bytes(8, "big") for at, mask in enumerate(blocks(distance))
    ]
    for row in index.first(step, keys, number):
        other = int.from_bytes(index.mark(step, row), "big")
        if (mine ^ other).bit_count() <= distance:
            return row
    index.add(step, number, keys, mine.to_bytes(8, "big"))
    return None


# -- MinHash -----------------------------------------------------------------------------


@lru_cache
def bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many values: the longest that still find SURE of the pairs."""
    for size in range(PERMUTATIONS, 0, -1):
        count = PERMUTATIONS // size
        if 1 - (1 - threshold**size) ** count >= SURE:
            return count, size
    return PERMUTATIONS, 1


def near(
    passage: Passage, index: Index, step: int, number: int, threshold: float, size: int
) -> int | None:
    """The number of an earlier row that shares `threshold` of its shingles, as MinHash estimates."""
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    sketch.update(sorted(shingles(passage, size)))
    mine = array("I", sketch.digest())
    count, length = bands(threshold)
    keys = [
        bytes([at])
        + blake2b(mine[at * length : (at + 1) * length].tobytes(), digest_size=8).digest()
        for at in range(count)
    ]
    for row in index.first(step, keys, number):
        other = array("I", index.mark(step, row))
        agree = sum(a == b for a, b in zip(mine, other, strict=True))
        if agree >= threshold * PERMUTATIONS:
            return row
    index.add(step, number, keys, mine.tobytes())
    return None
