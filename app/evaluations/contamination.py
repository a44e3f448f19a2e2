"""Do the rows of an evaluation stand in what a model learnt from? Pure, and in bounded memory.

Texts are compared as words: NFKC, without case, marks and spaces; each Chinese, Japanese or Korean
character counts as a word. A row is found again *whole* (prompt and answer), by its *prompt*, or by
*overlap*: half of its runs of 13 words or more stand in training rows (Brown et al. 2020 take 13).
Runs that many of the evaluated rows share are the instruction that all of them begin with, and do
not count.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from app.evaluations.prompts import question

RUN = 13  # words
SHARE = 0.5  # of its runs, from which on a row overlaps
MOST_RUNS = 4_000_000  # that are kept: 12 bytes each
LONGEST = 20_000  # characters of a text that are looked at
COMMON = 10  # rows; a run that more of them have is no row's own
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+"
)
BASE = np.uint64(0x9E3779B97F4A7C15)
Array = Any  # numpy's, which mypy does not look into


def words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text[:LONGEST]).casefold())


def mark(text: Sequence[str]) -> int:
    """64 bits of what a text says; 0 where it says nothing."""
    if not text:
        return 0
    said = "\0".join(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(said, digest_size=8).digest()) or 1


def runs(text: Sequence[str]) -> Array:
    """The hashes of its runs of 13 words: (words - 12,), none of a shorter text. They are the same
    within one process only.
    """
    if len(text) < RUN:
        return np.empty(0, dtype=np.uint64)
    marks = np.fromiter((hash(word) for word in text), dtype=np.int64, count=len(text))
    each = marks.view(np.uint64)
    found = np.zeros(len(text) - RUN + 1, dtype=np.uint64)
    for place in range(RUN):  # a polynomial modulo 2⁶⁴
        found = found * BASE + each[place : len(each) - RUN + 1 + place]
    return found


class Texts(NamedTuple):
    """What of a row is compared: prompts without the system message, and the answer."""

    prompt: list[str]
    answer: list[str]


def texts(row: dict[str, Any]) -> Texts:
    if "messages" not in row:
        return Texts(words(str(row.get("text") or "")), [])
    asked = question(row)
    said = [str(one.get("content") or "") for one in asked.messages if one["role"] != "system"]
    return Texts(words("\n".join(said)), words(asked.reference))


@dataclass(frozen=True)
class Hit:
    """An evaluated row that training data has. `place` is the training row's number, from 0, in the
    version `source`; of an overlap, of the row that has most of it. `share` is that of all.
    """

    number: int
    kind: str  # row, prompt or overlap
    share: float
    source: str
    place: int


@dataclass
class Index:
    """First `add` the evaluated rows and `close`, then `see` each training row, then ask `hits`."""

    numbers: list[int] = field(default_factory=list)
    whole: dict[int, list[int]] = field(default_factory=dict)  # mark → positions
    prompts: dict[int, list[int]] = field(default_factory=dict)
    full: bool = False  # no room for more runs: the rows behind are compared as wholes alone
    seen: dict[int, tuple[str, str, int]] = field(default_factory=dict)  # position → kind, where
    most: dict[int, tuple[int, str, int]] = field(default_factory=dict)  # position → runs, where
    _runs: array = field(default_factory=lambda: array("Q"))
    _of: array = field(default_factory=lambda: array("I"))
    keys: Array = None  # the runs, ascending
    of: Array = None  # whose each is: its position
    met: Array = None  # which of them training rows have
    totals: Array = None  # runs of each position

    def add(self, number: int, row: dict[str, Any]) -> None:
        at = len(self.numbers)
        self.numbers.append(number)
        found = texts(row)
        both = [*found.prompt, "\1", *found.answer]
        self.whole.setdefault(mark(both), []).append(at)
        if prompt := mark(found.prompt):
            self.prompts.setdefault(prompt, []).append(at)
        own = np.unique(np.concatenate([runs(found.prompt), runs(found.answer)]))
        if len(self._runs) + len(own) > MOST_RUNS:
            self.full = True
            return
        self._runs.frombytes(own.tobytes())
        self._of.extend([at] * len(own))

    def close(self) -> None:
        """No more rows; what too many of them have is left out."""
        keys = np.frombuffer(self._runs.tobytes(), dtype=np.uint64)
        of = np.frombuffer(self._of.tobytes(), dtype=np.uint32)
        _, back, times = np.unique(keys, return_inverse=True, return_counts=True)
        common = min(COMMON, max(2, len(self.numbers) // 20))
        own = times[back] <= common if len(keys) else np.empty(0, dtype=bool)
        order = np.argsort(keys[own], kind="stable")
        self.keys, self.of = keys[own][order], of[own][order]
        self.met = np.zeros(len(self.keys), dtype=bool)
        self.totals = np.bincount(self.of, minlength=len(self.numbers))
        self._runs, self._of = array("Q"), array("I")

    def see(self, source: str, place: int, row: dict[str, Any]) -> None:
        """A training row."""
        found = texts(row)
        both = mark([*found.prompt, "\1", *found.answer])
        for at in self.whole.get(both, ()):
            if self.seen.get(at, ("",))[0] != "row":
                self.seen[at] = ("row", source, place)
        for at in self.prompts.get(mark(found.prompt), ()):
            self.seen.setdefault(at, ("prompt", source, place))
        if len(self.keys):
            self.overlap(source, place, [runs(found.prompt), runs(found.answer)])

    def overlap(self, source: str, place: int, theirs: Iterable[Array]) -> None:
        mine = np.unique(np.concatenate(list(theirs)))
        left = np.searchsorted(self.keys, mine, side="left")
        right = np.searchsorted(self.keys, mine, side="right")
        there = right > left
        if not there.any():
            return
        places = np.concatenate(
            [np.arange(a, b) for a, b in zip(left[there], right[there], strict=True)]
        )
        self.met[places] = True
        positions, counts = np.unique(self.of[places], return_counts=True)
        for at, count in zip(positions.tolist(), counts.tolist(), strict=True):
            if count > self.most.get(at, (0, "", 0))[0]:
                self.most[at] = (count, source, place)

    def hits(self) -> list[Hit]:
        """The worst first: whole rows, then prompts, then by how much of them is there."""
        met = np.bincount(self.of[self.met], minlength=len(self.numbers))
        found = []
        for at in sorted(self.seen.keys() | self.most.keys()):
            number = self.numbers[at]
            if known := self.seen.get(at):
                found.append(Hit(number, known[0], 1.0, known[1], known[2]))
                continue
            share = float(met[at] / self.totals[at])
            if share >= SHARE:
                found.append(Hit(number, "overlap", share, *self.most[at][1:]))
        kinds = ("row", "prompt", "overlap")
        return sorted(found, key=lambda one: (kinds.index(one.kind), -one.share, one.number))
