"""What is known of a version as a whole: its remarks, rows that repeat others, and overlaps."""

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import merge, nsmallest
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app import storage
from app.datasets.rows import duplicates, facts, segments
from app.datasets.tables import DatasetIssue, DatasetVersion
from app.datasets.validation.validate import Issue
from app.errors import N_, Conflict

DUPLICATES = "duplicates"  # pairs of 64-bit numbers: a row, and the first row that is equal
LISTED = facts.LISTED  # issues of one code that are listed
BLOCK = LISTED  # duplicates that are written together
EXAMPLES = 20  # pairs of rows that an overlap shows

REPEATS = N_("This row repeats line %(line)s.")
NOT_YET = N_("The rows of version %(number)s are still being looked at. Try again in a moment.")


@dataclass
class Found:
    artefact: str
    counts: dict[str, int]  # of warnings, by code: all of them, listed or not
    issues: list[Issue] = field(default_factory=list)  # that are listed


@dataclass(frozen=True)
class Overlap:
    """Rows of one version that stand in another as well."""

    rows: int  # that are equal
    prompts: int  # whose question is equal, whatever the answer
    examples: list[tuple[int, int]]  # (row, row of the other), numbered from 0


def missing(one: DatasetVersion) -> dict[str, Any] | None:
    """The first segment whose facts are not in the store."""
    for segment in one.segments:
        try:
            storage.fetch(facts.artefact(segment["artefact"]))
        except FileNotFoundError:
            return segment
    return None


def known(one: DatasetVersion) -> list[Path]:
    """The facts of each segment. Raises FileNotFoundError."""
    return [storage.fetch(facts.artefact(segment["artefact"])) for segment in one.segments]


def gather(one: DatasetVersion, directory: Path, beat: Callable[[], None]) -> Found:
    """All remarks about a version's rows, and its duplicates, which go into `directory`."""
    places = known(one)
    lines = Lines(one, places)
    counts: Counter[str] = Counter()
    issues: list[Issue] = []
    for place, start in zip(places, lines.starts, strict=False):
        beat()
        found = orjson.loads((place / facts.REMARKS).read_bytes())
        seen = counts.copy()
        counts.update(found["counts"])
        for one_of in found["listed"]:
            code = one_of["code"]
            seen[code] += 1
            if seen[code] <= LISTED:
                line, file = lines.of(start + one_of["row"])
                issues.append(
                    Issue("warning", line, one_of["path"], code, one_of["message"],
                          one_of["params"], file)
                )  # fmt: skip
    pairs = sorted_pairs(places)
    with (directory / DUPLICATES).open("wb") as out:
        while block := list(islice(pairs, BLOCK)):
            beat()
            if not counts["row.duplicate"]:
                issues += [lines.repeat(row, first) for row, first in block]
            counts["row.duplicate"] += len(block)
            flat = array("Q", [number for pair in block for number in pair])
            out.write(segments.little(flat))
    issues.sort(key=lambda issue: (issue.file, issue.line))
    name = hashlib.blake2b(orjson.dumps(one.segments), digest_size=8).hexdigest()
    return Found(f"checks/{one.id}.{name}", dict(+counts), issues)


def sorted_pairs(places: list[Path]) -> Iterator[tuple[int, int]]:
    """Rows that repeat one before them, in order. Memory holds 16 bytes for each."""
    runs: list[Any] = []  # pairs of arrays
    last = None
    for row, first in duplicates.repeats([facts.whole(place) for place in places]):
        if last is None or row < last:  # the next part begins
            runs.append((array("Q"), array("Q")))
        runs[-1][0].append(row)
        runs[-1][1].append(first)
        last = row
    return merge(*(zip(rows, firsts, strict=True) for rows, firsts in runs))


class Lines:
    """Where a row of a version stood in the upload: its line, and the file if there are several.

    A row that came otherwise has its number in the version, from 1.
    """

    def __init__(self, one: DatasetVersion, places: list[Path]) -> None:
        self.places = places
        self.starts = [0, *accumulate(segment["rows"] for segment in one.segments)]
        uploaded = one.recipe.get("made") in ("upload", "import")
        self.files = one.files if uploaded and all("first" in file for file in one.files) else []
        self.bases = [file["first"] for file in self.files]

    def of(self, row: int) -> tuple[int, str]:
        if not self.files:
            return row + 1, ""
        at = bisect_right(self.starts, row) - 1
        number = facts.named(self.places[at], row - self.starts[at])
        file = bisect_right(self.bases, number - 1) - 1
        name = self.files[file]["name"] if len(self.files) > 1 else ""
        return number - self.bases[file], name

    def repeat(self, row: int, first: int) -> Issue:
        line, file = self.of(row)
        before, where = self.of(first)
        params: dict[str, Any] = {"line": before} | ({"file": where} if where != file else {})
        return Issue("warning", line, "", "row.duplicate", REPEATS, params, file)


def forget(db: Session, held: DatasetVersion) -> None:
    """Take back what the last look at a version listed."""
    counts = held.checks.get("counts", {})
    if counts:
        mine = DatasetIssue.version_id == held.id, DatasetIssue.code.in_(counts)
        db.execute(delete(DatasetIssue).where(*mine))
        held.warning_count -= sum(counts.values())


def repeated(one: DatasetVersion) -> "array[int]":
    """The numbers of the rows that repeat one before them. Raises FileNotFoundError."""
    if one.checks.get("of") != one.segments or "artefact" not in one.checks:
        raise FileNotFoundError(one.id)
    return segments.numbers((storage.fetch(one.checks["artefact"]) / DUPLICATES).read_bytes())[::2]


def overlap(version: DatasetVersion, other: DatasetVersion) -> Overlap:
    """What of `version`, such as a validation set, stands in `other` as well.

    Raises Conflict while the rows of one of them are still being looked at.
    """
    sides = []
    for one in (version, other):
        try:
            sides.append(known(one))
        except FileNotFoundError:
            raise Conflict(NOT_YET, code="not_looked_at", number=one.number) from None
    mine, others = sides
    whole = duplicates.common(
        [facts.whole(place) for place in mine], [facts.whole(place) for place in others]
    )
    rows = sum(1 for _ in whole)
    prompts = 0
    examples: list[tuple[int, int]] = []
    for pair in duplicates.common(
        [facts.prompts(place) for place in mine], [facts.prompts(place) for place in others]
    ):
        prompts += 1
        examples = nsmallest(EXAMPLES, [*examples, pair])
    return Overlap(rows, prompts, examples)
