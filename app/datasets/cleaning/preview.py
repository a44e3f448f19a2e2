"""What a pipeline would do, tried on a sample of the rows within a second.

Nothing is written. Duplicates are found within the sample only; perplexity is not tried.
"""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import orjson

from app.datasets.cleaning.duplicates import Index
from app.datasets.cleaning.filters import Why
from app.datasets.cleaning.passages import Row, texts
from app.datasets.cleaning.pipeline import Pipeline, Runner

HEAD, SPREAD, PLACES = 500, 1500, 10  # the first rows, then so many from so many places
SECONDS = 1.0
MOST_BYTES = 256 * 2**10  # of a row: a longer one is not tried
EXAMPLES = 5  # of each step
AROUND, WINDOW = 30, 240  # characters shown before the first difference, and in all

Lines = Callable[[int], Iterator[bytes]]


class Piece(NamedTuple):
    """A stretch of text, marked where it differs: `same`, `gone` or `new`."""

    kind: str
    text: str


@dataclass
class Example:
    row: int  # from 0
    before: list[Piece]
    after: list[Piece] = field(default_factory=list)  # empty: the row is dropped
    why: Why | None = None


@dataclass
class Tried:
    """What one step did."""

    changed: int = 0
    dropped: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Preview:
    rows: int = 0  # tried
    kept: int = 0
    changed: int = 0  # of those kept
    skipped: int = 0  # too long to be tried
    total: int = 0  # rows of the version
    complete: bool = True  # the whole sample was tried
    steps: list[Tried] = field(default_factory=list)


def sample(total: int) -> list[tuple[int, int]]:
    """(first row, how many): the beginning, and places spread over the rest."""
    if total <= HEAD + SPREAD:
        return [(0, total)]
    each = SPREAD // PLACES
    rest = total - HEAD - each
    return [(0, HEAD)] + [(HEAD + rest * at // (PLACES - 1), each) for at in range(PLACES)]


def numbered(lines: Lines, total: int) -> Iterator[tuple[int, bytes]]:
    for start, count in sample(total):
        for number, line in enumerate(lines(start), start=start):
            if number >= start + count:
                break
            yield number, line


def preview(pipeline: Pipeline, lines: Lines, total: int, seconds: float = SECONDS) -> Preview:
    """Try a checked pipeline; `lines(start)` are the rows from number `start` on, as JSON."""
    found = Preview(total=total, steps=[Tried() for _ in pipeline.steps])
    index = Index()
    runner = Runner(pipeline, index)
    until = time.monotonic() + seconds
    try:
        for number, line in numbered(lines, total):
            if time.monotonic() > until:
                found.complete = False
                break
            if len(line) > MOST_BYTES:
                found.skipped += 1
                continue
            attempt(found, runner, number, orjson.loads(line))
    finally:
        index.close()
    return found


def attempt(found: Preview, runner: Runner, number: int, row: Row) -> None:
    last = (-1, row)  # the step that is at work, and the row as it came to it

    def look(then: Row) -> None:
        """If the step before changed the row, show how."""
        at, before = last
        if at < 0 or len(found.steps[at].examples) >= EXAMPLES:
            return
        for old, new in zip(shown(before), shown(then), strict=False):
            if old != new:
                pieces = difference(old, new)
                found.steps[at].examples.append(Example(number, *pieces))
                return

    def watch(at: int, then: Row) -> None:
        nonlocal last
        if runner.steps[at][1].edit and len(found.steps[at].examples) < EXAMPLES:
            look(then)
            last = (at, deepcopy(then))
        else:
            look(then)
            last = (-1, then)

    outcome = runner.apply(number, row, watch)
    found.rows += 1
    for at in outcome.changed:
        found.steps[at].changed += 1
    if outcome.dropped is None:
        look(row)
        found.kept += 1
        found.changed += bool(outcome.changed)
        return
    step = found.steps[outcome.dropped]
    step.dropped += 1
    if len(step.examples) < EXAMPLES:
        before = last[1] if last[0] == outcome.dropped else row
        text = "\n".join(shown(before))
        cut = text if len(text) <= WINDOW else text[:WINDOW] + " …"
        step.examples.append(Example(number, [Piece("gone", cut)], why=outcome.why))


def shown(row: Row) -> list[str]:
    """The texts of a row, and what its tools are called with."""
    found = [holder[key] for holder, key in texts(row)]
    turns: list[Any] = [*row.get("messages", ()), row.get("chosen", {}), row.get("rejected", {})]
    for call in (call for turn in turns for call in turn.get("tool_calls") or ()):
        arguments = (call.get("function") or {}).get("arguments", "")
        found.append(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())
    return found


def difference(old: str, new: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts around the first place where they differ, with the differences marked."""
    same = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        same += 1
    start = max(0, same - AROUND)
    left, right = old[start : start + WINDOW], new[start : start + WINDOW]
    before, after = [Piece("same", "… ")] * (start > 0), [Piece("same", "… ")] * (start > 0)
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        at_end = b == len(left) and d == len(right) and kind != "equal"
        cut = len(old) > start + WINDOW or len(new) > start + WINDOW
        marked = kind != "equal" and not (at_end and cut)  # what the window cuts off is not changed
        if a < b:
            before.append(Piece("gone" if marked else "same", left[a:b]))
        if c < d:
            after.append(Piece("new" if marked else "same", right[c:d]))
    if len(old) > start + WINDOW:
        before.append(Piece("same", " …"))
    if len(new) > start + WINDOW:
        after.append(Piece("same", " …"))
    return before, after
