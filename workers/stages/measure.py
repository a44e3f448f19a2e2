"""Measure a dataset: `python -m workers.stages.measure RUN_DIR`. What its rows are to a model.

All rows pass once through the renderer and the mask that training uses; what is kept of them are
counts, so memory does not grow with the dataset. The result is `RUN_DIR/measure.json`.
"""

import hashlib
import heapq
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from app.datasets.measures import histograms
from app.datasets.rows import segments
from app.datasets.rows.languages import language
from app.errors import N_
from app.models import vocabulary
from app.models.chat_template import SECONDS
from app.models.marking import BATCH_CHARS, Dropped, Marked, Marker, Row, StopUntrained, Text
from workers.stages.run import Run, StageError, execute, quiet, replace, say

BATCH_ROWS = 500  # tokenised together
NAMED = 1000  # rows without a trained token that are listed by number
LONGEST = 100  # rows
MOST_TURNS = 100  # rows with more are counted as this many
MOST_SLOW = 10  # rows on which a template may use up its time
LABEL_CHARS = 100
MOST_LABELS = 100  # different answers; with more of them they are no labels
LABEL_ROWS = 4  # rows per label, on average, below which answers are no labels
SHOWN_LABELS = 20


class MeasureSpec(BaseModel):
    """`spec.json`. Paths are absolute and on this node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure_id: str
    fence: int
    model: str
    """Directory: tokenizer, chat template, config."""
    kind: str
    """What the rows are: sft, pretrain, preference or kto."""
    rows: int
    """How many there are, for the progress."""
    segments: list[str]
    """Segment directories, in order."""
    edits: str | None = None
    """A file of a draft's edits: [place, rank, row or null] a line, in order; see RowEdit."""


def measure(run: Run, spec: MeasureSpec) -> dict[str, Any]:
    say(f"Measure {spec.measure_id}, attempt {spec.fence}: {spec.rows:,} rows ({spec.kind})")
    quiet(1)
    words = vocabulary.load(Path(spec.model))
    if words.template is None and spec.kind != "pretrain":
        raise StageError(
            "no_chat_template",
            N_("The model has no chat template, so conversations cannot be put into its words."),
        )
    tally = Tally(spec.kind, words.marker(datetime.now()))  # noqa: DTZ005 - as the engine's clock
    run.total = spec.rows
    run.enter("measure")
    began = time.monotonic()
    try:
        for batch in batches(rows(spec), tally):
            tally.take(batch)
            run.progress(min(tally.rows, run.total))
    except FileNotFoundError as error:
        raise StageError(
            "data_missing", N_("The data is not on this node: %(file)s"), file=error.filename
        ) from error
    result = tally.result() | {"seconds": round(time.monotonic() - began, 1)}
    replace(run.directory / "measure.json", result)
    return {"rows": tally.rows, "tokens": result["tokens"]}


def rows(spec: MeasureSpec) -> Iterator[bytes]:
    """The JSON of each row: those of the segments, with the edits laid over."""
    base = chain.from_iterable(segments.lines(Path(place)) for place in spec.segments)
    if spec.edits is None:
        yield from base
        return
    edits = iter(Path(spec.edits).read_bytes().splitlines())
    place, rank, row = edit(edits)
    for number, line in enumerate(base):
        if place == number and not rank:
            if row:
                yield row
            place, rank, row = edit(edits)
        else:
            yield line
        while place == number:
            yield row
            place, rank, row = edit(edits)
    while row:
        yield row
        place, rank, row = edit(edits)


def edit(edits: Iterator[bytes]) -> tuple[int, str, bytes]:
    """The next edit: the row is empty where it is deleted. Past the last one, place -1."""
    line = next(edits, None)
    if line is None:
        return -1, "", b""
    place, rank, row = orjson.loads(line)
    return place, rank, orjson.dumps(row) if row else b""


Sample = tuple[int, list[Text]]  # the number of a row, and what it is trained as


def batches(lines: Iterable[bytes], tally: "Tally") -> Iterator[list[Sample]]:
    """Look at each row, and gather as many as are tokenised together."""
    batch: list[Sample] = []
    size = 0
    for line in lines:
        if texts := tally.look(line):
            batch.append((tally.rows - 1, texts))
            size += sum(len(text.text) for text in texts)
        if len(batch) == BATCH_ROWS or size > BATCH_CHARS:
            yield batch
            batch, size = [], 0
    yield batch


class Tally:
    """All that is counted. Rows are known by their number in the version, from 0."""

    def __init__(self, kind: str, marker: Marker) -> None:
        self.kind = kind
        self.marker = marker
        self.rows = 0
        self.slow = 0
        self.tokens = self.trained = 0
        self.lengths: Counter[int] = Counter()  # of rows: their longest text
        self.texts: Counter[int] = Counter()  # of all texts
        self.first: Counter[int] = Counter()  # of rows: where the first trained token stands
        self.trained_at: Counter[int] = (
            Counter()
        )  # +1 where trained tokens begin, -1 where they end
        self.untrained: dict[str, list[int]] = {}
        self.untrained_count: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.roles: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.labels: Counter[str] | None = Counter()
        self.longest: list[tuple[int, int]] = []  # (tokens, -number), a heap
        self.latest: list[tuple[int, int]] = []  # the same of first trained tokens
        self.hashes = [array("Q") for _ in range(256)]

    # -- one row -----------------------------------------------------------------------------

    def look(self, line: bytes) -> list[Text]:
        """Count what needs no tokens; the texts to tokenise, none for a row that trains nothing."""
        row: Row = orjson.loads(line)
        self.rows += 1
        content = line.split(b",", 1)[-1]  # without the id, which comes first
        digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        self.hashes[digest & 255].append(digest)
        self.describe(row)
        began = time.monotonic()
        try:
            return self.marker.texts(row, self.kind)
        except Dropped as dropped:
            if dropped.kind == "refused":
                reason = dropped.reason[:200]
                if reason in self.refusals or len(self.refusals) < 100:
                    self.refusals[reason] += 1
            self.drop(self.rows - 1, dropped.kind)
        if time.monotonic() - began > SECONDS / 2:
            self.slow += 1
            if self.slow == MOST_SLOW:
                raise StageError(
                    "chat_template",
                    N_("The model's chat template needs more time or memory than it may."),
                )
        return []

    def describe(self, row: Row) -> None:
        messages = list(row.get("messages", ()))
        if self.kind == "preference":
            messages.append(row["chosen"])
        self.roles.update(message["role"] for message in messages)
        words = [message.get("content") or "" for message in messages]
        self.languages[language(row["text"] if "text" in row else "\n".join(words))] += 1
        answers = sum(message["role"] == "assistant" for message in messages)
        if self.kind != "pretrain":
            self.turns[min(answers, MOST_TURNS)] += 1
        if self.kind == "kto":
            self.label(str(bool(row["label"])).lower())
        elif self.kind == "sft" and answers:
            last = next(one for one in reversed(messages) if one["role"] == "assistant")
            self.label((last.get("content") or "").strip())

    def label(self, value: str) -> None:
        if self.labels is None:
            return
        self.labels[value] += 1
        if len(value) > LABEL_CHARS or len(self.labels) > 10 * MOST_LABELS:
            self.labels = None

    def drop(self, number: int, kind: str) -> None:
        self.untrained_count[kind] += 1
        if sum(map(len, self.untrained.values())) < NAMED:
            self.untrained.setdefault(kind, []).append(number)

    # -- tokens ------------------------------------------------------------------------------

    def take(self, batch: list[Sample]) -> None:
        encodings = iter(self.marker.encode([text for _, texts in batch for text in texts]))
        for number, texts in batch:
            found = [(text, next(encodings)) for text in texts]
            try:
                marked = [self.marker.mark(text, encoding) for text, encoding in found]
            except StopUntrained:
                self.drop(number, "no_stop")
            else:
                self.count(number, marked)

    def count(self, number: int, marked: list[Marked]) -> None:
        spans = [span for one in marked for span in one.carrying()]
        for one in marked:
            self.texts[len(one.ids)] += 1
            self.tokens += len(one.ids)
        for first, end in spans:
            self.trained += end - first
            self.trained_at[first] += 1
            self.trained_at[end] -= 1
        length = max(len(one.ids) for one in marked)
        self.lengths[length] += 1
        keep(self.longest, length, number)
        if spans:
            first = min(first for first, _ in spans)
            self.first[first] += 1
            keep(self.latest, first, number)
        else:
            self.drop(number, "empty")

    # -- the whole ---------------------------------------------------------------------------

    def duplicates(self) -> int:
        """Rows that are the same as an earlier one, but for the id."""
        return sum(len(part) - len(set(part)) for part in self.hashes)

    def result(self) -> dict[str, Any]:
        pairs = sorted(self.lengths.items())
        return {
            "kind": self.kind,
            "rows": self.rows,
            "tokens": self.tokens,
            "trained": self.trained,
            "average": round(self.tokens / max(1, sum(self.lengths.values())), 1),
            "percentiles": {
                name: histograms.percentile(pairs, share)
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))
            },
            "max": pairs[-1][0] if pairs else 0,
            "lengths": histograms.pack(self.lengths),
            "texts": histograms.pack(self.texts),
            "first": histograms.pack(self.first),
            "trained_at": histograms.pack({at: n for at, n in self.trained_at.items() if n}),
            "untrained": {
                "count": sum(self.untrained_count.values()),
                "kinds": [
                    {"kind": kind, "count": count, "rows": self.untrained.get(kind, [])}
                    for kind, count in self.untrained_count.most_common()
                ],
                "refusals": [
                    {"reason": reason, "count": count}
                    for reason, count in self.refusals.most_common(5)
                ],
            },
            "turns": [{"turns": at, "rows": rows} for at, rows in sorted(self.turns.items())],
            "roles": dict(self.roles.most_common()),
            "languages": dict(self.languages.most_common()),
            "labels": self.balance(),
            "duplicates": self.duplicates(),
            "longest": listed(self.longest),
            "latest": listed(self.latest),
        }

    def balance(self) -> list[dict[str, Any]]:
        """The answers that are labels, most frequent first: [{value, rows}], the rest as null."""
        found = self.labels or Counter()
        if self.kind == "sft" and (
            len(found) > MOST_LABELS or len(found) * LABEL_ROWS > found.total()
        ):
            return []
        top: list[dict[str, Any]] = [
            {"value": value, "rows": rows} for value, rows in found.most_common(SHOWN_LABELS)
        ]
        rest = found.total() - sum(one["rows"] for one in top)
        return [*top, {"value": None, "rows": rest}] if rest else top


def keep(heap: list[tuple[int, int]], size: int, number: int) -> None:
    """Remember the row among the largest; of equals the earlier ones."""
    if len(heap) < LONGEST:
        heapq.heappush(heap, (size, -number))
    else:
        heapq.heappushpop(heap, (size, -number))


def listed(heap: list[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"row": -number, "tokens": size} for size, number in sorted(heap, reverse=True)]


if __name__ == "__main__":
    raise SystemExit(execute(measure, MeasureSpec))
