"""What differs between two texts, word by word, and between two rows, turn by turn.

A word is a run of letters and digits; of Chinese, Japanese and Korean each character is one.
Myers' algorithm, cut off where two texts have so little in common that it would tell nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]+|\s+|.", re.DOTALL)
MOST_STEPS = 300_000  # of comparing: about 0.1 s
MOST_CHANGES = 300  # words; past that one text stands for the other
CUT = 40_000  # characters of a text that are compared; what follows counts as one word

Words = list[tuple[str, str]]  # (same, old or new; the text)


@dataclass(frozen=True)
class Block:
    """A turn of a conversation, or another part of a row, and its texts by field."""

    label: str  # a role, or tools, label, text, chosen, rejected
    path: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Pair:
    """A block as it was and as it is."""

    change: str  # same, changed, added, removed
    label: str
    path: str  # in the new row; of a removed block, in the old one
    fields: list[tuple[str, Words]]


# -- texts -------------------------------------------------------------------------------


def words(old: str, new: str) -> Words:
    """`old` and `new` as one text of runs that are the same, old or new."""
    if old == new:
        return [("same", old)] if old else []
    left, right = split(old), split(new)
    found: Words = []
    for same, a, b in runs(left, right):
        if same:
            found.append(("same", "".join(left[a[0] : a[1]])))
        else:
            found += [
                (kind, text)
                for kind, text in (
                    ("old", "".join(left[a[0] : a[1]])),
                    ("new", "".join(right[b[0] : b[1]])),
                )
                if text
            ]
    return found


def split(text: str) -> list[str]:
    found = WORD.findall(text[:CUT])
    return [*found, text[CUT:]] if len(text) > CUT else found


Span = tuple[int, int]


def runs(left: Sequence[Any], right: Sequence[Any]) -> list[tuple[bool, Span, Span]]:
    """Where two sequences are the same, and what stands between: (same, of left, of right)."""
    start = 0
    most = min(len(left), len(right))
    while start < most and left[start] == right[start]:
        start += 1
    tail = 0
    while tail < most - start and left[-1 - tail] == right[-1 - tail]:
        tail += 1
    ends = len(left) - tail, len(right) - tail
    pairs = [(at, at) for at in range(start)]
    pairs += [
        (start + a, start + b) for a, b in matches(left[start : ends[0]], right[start : ends[1]])
    ]
    pairs += [(ends[0] + at, ends[1] + at) for at in range(tail)]
    return joined(pairs, len(left), len(right))


def joined(pairs: list[Span], left: int, right: int) -> list[tuple[bool, Span, Span]]:
    found: list[tuple[bool, Span, Span]] = []
    a = b = 0
    at = 0
    while at < len(pairs):
        x, y = pairs[at]
        if x > a or y > b:
            found.append((False, (a, x), (b, y)))
        length = 1
        while at + length < len(pairs) and pairs[at + length] == (x + length, y + length):
            length += 1
        found.append((True, (x, x + length), (y, y + length)))
        a, b, at = x + length, y + length, at + length
    if a < left or b < right:
        found.append((False, (a, left), (b, right)))
    return found


def matches(left: Sequence[Any], right: Sequence[Any]) -> list[Span]:
    """Which items of two sequences are the same, by the fewest changes. None past the limits."""
    most = min(MOST_CHANGES, MOST_STEPS // (len(left) + len(right) + 1))
    reach = {1: 0}  # how far in `left` each diagonal has come
    steps: list[dict[int, int]] = []
    for changes in range(most + 1):
        steps.append(dict(reach))
        for diagonal in range(-changes, changes + 1, 2):
            down = diagonal == -changes or (
                diagonal != changes and reach[diagonal - 1] < reach[diagonal + 1]
            )
            x = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
            y = x - diagonal
            while x < len(left) and y < len(right) and left[x] == right[y]:
                x, y = x + 1, y + 1
            reach[diagonal] = x
            if x >= len(left) and y >= len(right):
                return way_back(steps, len(left), len(right))
    return []


def way_back(steps: list[dict[int, int]], x: int, y: int) -> list[Span]:
    found: list[Span] = []
    for changes in range(len(steps) - 1, -1, -1):
        reach = steps[changes]
        diagonal = x - y
        down = diagonal == -changes or (
            diagonal != changes and reach[diagonal - 1] < reach[diagonal + 1]
        )
        before = diagonal + 1 if down else diagonal - 1
        last = reach[before]
        while x > last and y > last - before:
            x, y = x - 1, y - 1
            found.append((x, y))
        x, y = last, last - before
    return found[::-1]


# -- rows --------------------------------------------------------------------------------


def blocks(row: dict[str, Any] | None) -> list[Block]:
    """The parts of a row in the order in which they are read."""
    if row is None:
        return []
    found = []
    if "text" in row:
        found.append(Block("text", "text", {"text": row["text"]}))
    if "tools" in row:
        found.append(Block("tools", "tools", {"tools": pretty(row["tools"])}))
    for at, message in enumerate(row.get("messages", [])):
        found.append(Block(message["role"], f"messages[{at}]", fields(message)))
    found += [
        Block(name, name, fields(row[name])) for name in ("chosen", "rejected") if name in row
    ]
    if "label" in row:
        found.append(Block("label", "label", {"label": "true" if row["label"] else "false"}))
    return found


def fields(message: dict[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else pretty(value)
        for name, value in message.items()
        if name != "role" and value not in ("", None)
    }


def pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def rows(old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[Pair]:
    """Two rows, block by block; one that is None makes all blocks added, or removed."""
    left, right = blocks(old), blocks(new)
    keys = [(one.label, one.fields) for one in left], [(one.label, one.fields) for one in right]
    found: list[Pair] = []
    for same, a, b in runs(*keys):
        if same:
            found += [pair(one, one, "same") for one in right[b[0] : b[1]]]
        else:
            found += between(left[a[0] : a[1]], right[b[0] : b[1]])
    return found


def between(left: list[Block], right: list[Block]) -> list[Pair]:
    """Pairs of blocks of which each has changed: those of one label belong together, in order."""
    found: list[Pair] = []
    rest = list(right)
    for one in left:
        at = next((n for n, other in enumerate(rest) if other.label == one.label), None)
        if at is None:
            found.append(pair(one, Block(one.label, one.path, {}), "removed"))
            continue
        found += [pair(Block(new.label, new.path, {}), new, "added") for new in rest[:at]]
        found.append(pair(one, rest[at], "changed"))
        rest = rest[at + 1 :]
    return found + [pair(Block(new.label, new.path, {}), new, "added") for new in rest]


def pair(old: Block, new: Block, change: str) -> Pair:
    names = [*old.fields, *(name for name in new.fields if name not in old.fields)]
    told = [(name, words(old.fields.get(name, ""), new.fields.get(name, ""))) for name in names]
    return Pair(change, new.label, new.path, told)
