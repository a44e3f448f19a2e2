"""Rows held back to validate with, and validation rows that stand in the training data too.

Rows are told apart by hashes, in a few bytes each, so that millions of them can be compared.
Pure: the console looks before a run with what the run itself then uses. Lines are rows as
segments keep them: JSON, the id first.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappush, heapreplace, merge
from typing import Any

import orjson

Row = dict[str, Any]
NOTHING = 0  # the mark of a prompt that is not there
PIECE = 2**20  # marks sorted at once


def row_key(line: bytes) -> bytes:
    """What the row says, whatever its id: `formats.row_hash`, as 16 bytes."""
    return hashlib.blake2b(b"{" + line.split(b",", 1)[1]).digest()[:16]


def row_mark(key: bytes) -> int:
    return int.from_bytes(key[:8])


def prompt_mark(row: Row) -> int:
    """What the row asks, whatever is answered and whoever the model is told to be (system).

    NOTHING for a row that asks nothing: a plain text, an answer without a question.
    """
    messages = row.get("messages") or []
    if "chosen" not in row and messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    asked = [
        (one["role"], str(one.get("content") or "").strip(), one.get("tool_calls"))
        for one in messages
        if one["role"] != "system"
    ]
    if not asked:
        return NOTHING
    digest = hashlib.blake2b(orjson.dumps(asked), digest_size=8, person=b"prompt").digest()
    return int.from_bytes(digest) or 1


# -- holding back ------------------------------------------------------------------------


@dataclass
class Held:
    """A row that is held back, and as often as it stands there."""

    count: int
    number: int  # of the first of them, from 0
    prompt: int


class Holding:
    """Chooses the rows whose seeded hashes are the smallest: feed every row, then ask `held`.

    The choice depends on what the rows say and on the seed alone, so that the same row is never
    on both sides, however often it stands there, and another look gives the same rows. Memory
    grows with `wanted`, not with the dataset.
    """

    def __init__(self, wanted: int, seed: int) -> None:
        self.wanted = wanted
        self.salt = seed.to_bytes(8)
        self.heap: list[tuple[int, bytes]] = []  # (minus the seeded hash, key): the largest first
        self.found: dict[bytes, Held] = {}
        self.rows = 0

    def add(self, line: bytes) -> None:
        key, number = row_key(line), self.rows
        self.rows += 1
        if known := self.found.get(key):
            known.count += 1
            return
        place = -int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self.salt).digest())
        if len(self.heap) < self.wanted:
            heappush(self.heap, (place, key))
        elif place > self.heap[0][0]:
            _, gone = heapreplace(self.heap, (place, key))
            del self.found[gone]
        else:
            return
        self.found[key] = Held(1, number, prompt_mark(orjson.loads(line)))

    def held(self) -> dict[bytes, Held]:
        """At most `wanted` rows; one whose duplicates would be too many is passed over."""
        chosen: dict[bytes, Held] = {}
        left = self.wanted
        for _, key in sorted(self.heap, reverse=True):
            if self.found[key].count <= left:
                chosen[key] = self.found[key]
                left -= self.found[key].count
        return chosen


# -- leaks -------------------------------------------------------------------------------


@dataclass
class Leaks:
    """Which validation rows, or their prompts, the training data has too: 40 bytes a row.

    First `add` all validation rows, then `see` all training rows, then ask.
    """

    rows: array = field(default_factory=lambda: array("Q"))
    prompts: array = field(default_factory=lambda: array("Q"))
    counts: array = field(default_factory=lambda: array("I"))
    numbers: array = field(default_factory=lambda: array("I"))
    seen: set[int] = field(default_factory=set)
    known: array = field(default_factory=lambda: array("Q"))  # of both, ascending

    def add(self, row: int, prompt: int, number: int, count: int = 1) -> None:
        """The marks of a validation row; its number, and how often it stands there."""
        self.rows.append(row)
        self.prompts.append(prompt)
        self.numbers.append(number)
        self.counts.append(count)

    def add_line(self, line: bytes) -> None:
        mark = row_mark(row_key(line))
        self.add(mark, prompt_mark(orjson.loads(line)), len(self.rows))

    def add_held(self, held: dict[bytes, Held]) -> None:
        for key, one in held.items():
            self.add(row_mark(key), one.prompt, one.number, one.count)

    def see(self, line: bytes, row: Row | None = None) -> None:
        """A training row; `row` is what the line says, where the caller has read it."""
        if not self.known:
            self.known = ascending(self.rows, self.prompts)
        prompt = prompt_mark(orjson.loads(line) if row is None else row)
        for mark in (row_mark(row_key(line)), prompt):
            at = bisect_left(self.known, mark)
            if mark != NOTHING and at < len(self.known) and self.known[at] == mark:
                self.seen.add(mark)

    def kind(self, row: int, prompt: int) -> str:
        """`row` if the training data has the whole row, `prompt` if it has its prompt, or empty."""
        return "row" if row in self.seen else "prompt" if prompt in self.seen else ""

    def found(self) -> Iterator[tuple[int, int, str]]:
        """(number, count, kind) of each validation row that leaks, in the order they were added."""
        marks = zip(self.numbers, self.counts, self.rows, self.prompts, strict=True)
        for number, count, row, prompt in marks:
            if kind := self.kind(row, prompt):
                yield number, count, kind


def ascending(*marks: array) -> array:
    """All of them in order, a piece at a time: Python's own numbers take four times the room."""
    pieces = (
        array("Q", sorted(few[at : at + PIECE]))
        for few in marks
        for at in range(0, len(few), PIECE)
    )
    return array("Q", merge(*pieces))
