"""Rows to tokens, and which of the tokens carry loss: `app.models.marking`, for a whole dataset.

Here rows are cut at the maximum length, collected, and what became of them is said.
"""

import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tokenizers import Encoding, Tokenizer

from app.errors import N_
from app.models.chat_template import ChatTemplate
from app.models.marking import (
    BATCH_CHARS,
    FULL,
    Dropped,
    Marker,
    Row,
    StopUntrained,
    Text,
    TrainOn,
)
from workers.stages.run import Run, StageError, say

BATCH = 500  # texts tokenised together
PROBES = 64  # samples whose prompts are compared with what serving would send
NAMED = 100  # ids of rows that an event carries; the log has all

DROPPED = {
    "no_answer": N_("%(count)s rows have no assistant turn and were left out."),
    "unweighted": N_("%(count)s rows were left out: all their answers have the weight 0."),
    "empty": N_("%(count)s rows have no text and were left out."),
    "refused": N_("The chat template refuses %(count)s rows, which were left out: %(reason)s"),
    "unstable": N_(
        "%(count)s rows were left out: the chat template renders their answers in a way that no"
        " generation prompt leads to."
    ),
    "too_long": N_(
        "%(count)s rows were left out: no answer begins within the maximum length of"
        " %(max_length)s tokens."
    ),
}


@dataclass
class Examples:
    """Token ids and the weights of their losses, end to end: 5 bytes per token.

    A weight is in hundredths; 0 is context. An example that counts several times is there once, with several starts.
    """

    ids: array = field(default_factory=lambda: array("i"))
    trained: bytearray = field(default_factory=bytearray)
    starts: array = field(default_factory=lambda: array("q"))
    lengths: list[int] = field(default_factory=list)
    rows: array = field(default_factory=lambda: array("I"))  # of which row, as read, each came
    good: array = field(default_factory=lambda: array("b"))  # 0: a rejected or bad answer
    stops: set[int] = field(default_factory=set)  # tokens seen to end a turn

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def carrying(self) -> int:
        """Tokens that carry loss."""
        return len(self.trained) - self.trained.count(0)

    def carried(self, number: int) -> int:
        """The same, of one example."""
        start, length = self.starts[number], self.lengths[number]
        return length - self.trained.count(0, start, start + length)

    def add(
        self, ids: Sequence[int], trained: bytearray, row: int = 0, *, good: bool = True
    ) -> None:
        self.starts.append(len(self.ids))
        self.ids.extend(ids)
        self.trained += trained
        self.lengths.append(len(ids))
        self.rows.append(row)
        self.good.append(good)

    def repeat(self, number: int) -> None:
        """Once more, without a token of memory."""
        self.starts.append(self.starts[number])
        self.lengths.append(self.lengths[number])
        self.rows.append(self.rows[number])
        self.good.append(self.good[number])

    def __getitem__(self, number: int) -> tuple[array, bytearray]:
        start = self.starts[number]
        place = slice(start, start + self.lengths[number])
        return self.ids[place], self.trained[place]


@dataclass
class Prepare:
    """One pass over rows. Counts what happened to them on the way."""

    run: Run
    tokenizer: Tokenizer
    template: ChatTemplate | None
    special: set[int]  # ids that can end a turn
    stops: set[int]  # ids at which the model's engine stops already
    around: tuple[list[int], list[int]]  # ids that open and close a plain text
    max_length: int
    kind: str  # of the rows: sft, pretrain, preference or kto
    now: datetime  # what templates take for the present, the same for all rows
    train_on: TrainOn = "answers"

    def __post_init__(self) -> None:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.marker = Marker(
            self.tokenizer,
            self.template,
            self.special,
            self.stops,
            self.around,
            self.now,
            self.train_on,
        )
        self.examples = Examples()
        self.rows = 0
        self.truncated: list[str] = []
        self.dropped: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.misaligned: list[str] = []
        self.probed = 0

    def read(self, rows: Iterable[Row]) -> Examples:
        """Tokenise all rows. Raises StageError when training on them would be pointless."""
        said = time.monotonic()
        texts: list[Text] = []
        numbers: list[int] = []  # of which row each text is
        size = 0
        for number, row in enumerate(rows):
            self.rows += 1
            try:
                found = self.marker.texts(row, self.kind)
            except Dropped as dropped:
                self.dropped[dropped.kind, dropped.reason].append(str(row.get("id", "?")))
                continue
            texts += found
            numbers += [number] * len(found)
            size += sum(len(text.text) for text in found)
            if len(texts) >= BATCH or size > BATCH_CHARS:
                self.take_all(texts, numbers)
                texts, numbers, size = [], [], 0
            if time.monotonic() - said > 10:
                said = time.monotonic()
                say(f"Prepared {self.rows:,} rows, {len(self.examples.ids):,} tokens")
        self.take_all(texts, numbers)
        return self.examples

    def take_all(self, texts: list[Text], numbers: list[int]) -> None:
        for text, encoding, row in zip(texts, self.marker.encode(texts), numbers, strict=True):
            self.take(text, encoding, row)

    def take(self, text: Text, encoding: "Encoding | array[int]", row: int) -> None:
        """Add a text's tokens to the examples, cut at the maximum length."""
        try:
            marked = self.marker.mark(text, encoding)
        except StopUntrained as error:
            raise StageError(error.code, error.message, **error.params) from error
        ids = marked.ids
        if text.spans is None:
            # Long texts in pieces. Each begins with the last token of the one before, so that every
            # token but the first of the text is predicted once.
            for start in range(0, len(ids) - 1, self.max_length - 1):
                piece = ids[start : start + self.max_length]
                self.examples.add(piece, bytearray([0]) + bytes([FULL]) * (len(piece) - 1), row)
            return
        for span, (first, end) in zip(text.spans, marked.spans, strict=True):
            self.examples.stops.add(ids[end - 1])
            self.probe(text, ids, span[0], first)
        trained = marked.trained()
        if len(ids) > self.max_length:
            ids, trained = ids[: self.max_length], trained[: self.max_length]
            if not any(trained):
                note(self.dropped["too_long", ""], text.row)
                return
            note(self.truncated, text.row)
        self.examples.add(ids, trained, row, good=text.part not in {"rejected", "bad"})

    def probe(self, text: Text, ids: Sequence[int], place: int, first: int) -> None:
        """Whether serving would send the same tokens for the prompt, which ends at `place`."""
        if self.probed < PROBES:
            self.probed += 1
            prompt = self.tokenizer.encode(text.text[:place], add_special_tokens=False).ids
            if prompt != ids[:first]:
                self.misaligned.append(text.row)

    # -- the report ------------------------------------------------------------------------

    def report(self, name: str) -> dict[str, int]:
        """Say what became of the rows; the numbers of `result.json`."""
        for (kind, reason), rows in self.dropped.items():
            self.tell("dropped", DROPPED[kind], rows, reason=reason, max_length=self.max_length)
        if self.truncated:
            self.tell(
                "truncated",
                N_("%(count)s rows were cut at the maximum length of %(max_length)s tokens."),
                self.truncated,
                max_length=self.max_length,
            )
        if self.misaligned:
            self.tell(
                "warning",
                N_(
                    "In %(count)s of the rows that were looked at, the answer's first token runs"
                    " into the prompt, which serving will split differently."
                ),
                self.misaligned,
            )
        examples = self.examples
        tokens, trained = len(examples.ids), examples.carrying
        self.run.event(
            "prepared",
            {
                "train": N_(
                    "Training data: %(rows)s rows, %(tokens)s tokens; %(trained)s of them"
                    " (%(share)s %%) carry loss."
                ),
                "validation": N_(
                    "Validation data: %(rows)s rows, %(tokens)s tokens; %(trained)s of them"
                    " (%(share)s %%) carry loss."
                ),
            }[name],
            rows=self.rows,
            samples=len(examples),
            tokens=tokens,
            trained=trained,
            share=round(100 * trained / max(tokens, 1), 1),
        )
        if not trained:
            raise self.nothing()
        return {
            "rows": self.rows,
            "samples": len(examples),
            "tokens": tokens,
            "trained_tokens": trained,
            "truncated": len(self.truncated),
            "dropped": sum(map(len, self.dropped.values())),
        }

    def nothing(self) -> StageError:
        """No token carries loss: say why, by the most frequent reason."""
        worst = max(self.dropped, key=lambda key: len(self.dropped[key]), default=("empty", ""))
        messages = {
            "unstable": N_(
                "The model's chat template renders every answer in a way that no generation"
                " prompt leads to. Use a model with another template, or add the reasoning that"
                " it expects to the answers."
            ),
            "refused": N_("The model's chat template refuses every row: %(reason)s"),
            "too_long": N_(
                "Every row is cut before its first answer. Raise the maximum length above"
                " %(max_length)s tokens."
            ),
        }
        default = N_("None of the rows has an assistant turn, so there is nothing to learn.")
        return StageError(
            {"unstable": "template_unstable", "refused": "template_refused"}.get(
                worst[0], "nothing_to_train"
            ),
            messages.get(worst[0], default),
            reason=worst[1],
            max_length=self.max_length,
        )

    def tell(self, event: str, sentence: str, rows: list[str], **params: Any) -> None:
        self.run.event(event, sentence, count=len(rows), rows=rows[:NAMED], **params)
        for start in range(0, len(rows), 1000):
            self.run.line(f"  {event}: {' '.join(rows[start : start + 1000])}")


def note(rows: list[str], row: str) -> None:
    """A row once, though both answers of a preference may have the same fate."""
    if not rows or rows[-1] != row or row == "?":
        rows.append(row)
