"""Rows to tokens, and which of the tokens carry loss.

What is trained is what the model will write when it is served: for each assistant turn, the text
from the end of the generation prompt to the token that ends the turn, that token included. The
place of a turn is found by rendering, with the model's own template, the conversation up to it;
the mask follows from positions in the text, never from the ids of padding or special tokens.
"""

import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from tokenizers import Encoding, Tokenizer

from app.errors import N_
from app.models.chat_template import ChatTemplate, ChatTemplateError
from workers.stages.run import Run, StageError, say

BATCH = 500  # rows tokenised together
PROBES = 64  # samples whose prompts are compared with what serving would send
NAMED = 100  # ids of rows that an event carries; the log has all

DROPPED = {
    "no_answer": N_("%(count)s rows have no assistant turn and were left out."),
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

Row = dict[str, Any]
Span = tuple[int, int]  # characters: [first, end)


@dataclass
class Examples:
    """Token ids and trained flags of all examples, end to end: 5 bytes per token."""

    ids: array = field(default_factory=lambda: array("i"))
    trained: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=lambda: [0])
    lengths: list[int] = field(default_factory=list)
    stops: set[int] = field(default_factory=set)  # tokens seen to end a turn

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, ids: list[int], trained: bytearray) -> None:
        self.ids.extend(ids)
        self.trained += trained
        self.ends.append(len(self.ids))
        self.lengths.append(len(ids))

    def __getitem__(self, number: int) -> tuple[array, bytearray]:
        place = slice(self.ends[number], self.ends[number + 1])
        return self.ids[place], self.trained[place]


class Dropped(Exception):
    """This row trains nothing, for a reason named in `DROPPED`."""

    def __init__(self, kind: str, reason: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.reason = reason


@dataclass
class Text:
    """A sample before tokenisation. `spans` None: every token is trained."""

    row: str
    text: str
    spans: list[Span] | None
    plain: bool = False  # no conversation: it gets the tokens that open and close a document


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
    pretrain: bool
    now: datetime  # what templates take for the present, the same for all rows

    def __post_init__(self) -> None:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.examples = Examples()
        self.rows = 0
        self.truncated: list[str] = []
        self.dropped: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.misaligned: list[str] = []
        self.probed = 0

    def read(self, rows: Iterable[Row]) -> Examples:
        """Tokenise all rows. Raises StageError when training on them would be pointless."""
        said = time.monotonic()
        for chunk in chunks(rows, BATCH):
            texts = []
            for row in chunk:
                try:
                    texts += self.texts(row)
                except Dropped as dropped:
                    self.dropped[dropped.kind, dropped.reason].append(str(row.get("id", "?")))
            self.rows += len(chunk)
            encodings = self.tokenizer.encode_batch(
                [text.text for text in texts], add_special_tokens=False
            )
            for text, encoding in zip(texts, encodings, strict=True):
                self.take(text, encoding)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                say(f"Prepared {self.rows:,} rows, {len(self.examples.ids):,} tokens")
        return self.examples

    # -- a row's texts ---------------------------------------------------------------------

    def texts(self, row: Row) -> list[Text]:
        """The texts that a row is trained as, most often one. Raises Dropped."""
        name = str(row.get("id", "?"))
        if self.pretrain and "text" in row:
            if not row["text"]:
                raise Dropped("empty")
            return [Text(name, row["text"], None, plain=True)]
        try:
            if self.pretrain:
                return [Text(name, self.render(row["messages"], row), None)]
            return [Text(name, text, spans) for text, spans in self.answers(row)]
        except ChatTemplateError as error:
            raise Dropped("refused", str(error.params.get("reason", error))) from error

    def render(self, messages: list[Row], row: Row, *, prompt: bool = False) -> str:
        assert self.template
        return self.template.render(
            messages, row.get("tools"), add_generation_prompt=prompt, now=self.now
        )

    def answers(self, row: Row) -> list[tuple[str, list[Span]]]:
        """Texts with the spans of their assistant turns.

        Some templates render a turn differently once others follow (reasoning is taken out of
        the history). Serving never sees such a turn as an answer, so it is trained in a text of
        its own, which ends with it.
        """
        messages = row["messages"]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise Dropped("no_answer")
        messages = messages[: turns[-1] + 1]
        whole = self.render(messages, row)
        shared: list[Span] = []
        texts = [(whole, shared)]
        for turn in turns:
            try:
                prompt = self.render(messages[:turn], row, prompt=True)
            except ChatTemplateError:
                if turn == 0 and len(turns) > 1:  # a greeting: context, nobody asked for it
                    continue
                raise
            text = whole if turn == turns[-1] else self.render(messages[: turn + 1], row)
            if not text.startswith(prompt):
                raise Dropped("unstable")
            if whole.startswith(text):
                shared.append((len(prompt), len(text)))
            else:
                texts.append((text, [(len(prompt), len(text))]))
        return [(text, spans) for text, spans in texts if spans]

    # -- a text's tokens -------------------------------------------------------------------

    def take(self, text: Text, encoding: Encoding) -> None:
        ids = encoding.ids
        if text.spans is None:
            if text.plain:
                ids = [*self.around[0], *ids, *self.around[1]]
            # Long texts in pieces. Each begins with the last token of the one before, so that every
            # token but the first of the text is predicted once.
            for start in range(0, len(ids) - 1, self.max_length - 1):
                piece = ids[start : start + self.max_length]
                self.examples.add(piece, bytearray([0]) + b"\1" * (len(piece) - 1))
            return
        trained = bytearray(len(ids))
        for span in text.spans:
            first, end = self.tokens(text, encoding, span)
            trained[first:end] = b"\1" * (end - first)
        trained[:1] = b"\0"  # nothing predicts the first token
        if len(ids) > self.max_length:
            ids, trained = ids[: self.max_length], trained[: self.max_length]
            if not any(trained):
                self.dropped["too_long", ""].append(text.row)
                return
            self.truncated.append(text.row)
        self.examples.add(ids, trained)

    def tokens(self, text: Text, encoding: Encoding, span: Span) -> tuple[int, int]:
        """The tokens [first, end) of an assistant turn, its stop token being the last.

        What follows the stop token (a newline, in most templates) is the template's, not the
        model's: it is never asked to write it.
        """
        ids = encoding.ids
        first = next(
            (at for place in range(*span) if (at := encoding.char_to_token(place)) is not None),
            len(ids),
        )
        last = next(
            (
                at
                for place in range(span[1] - 1, span[0] - 1, -1)
                if (at := encoding.char_to_token(place)) is not None
                and (ids[at] in self.special or text.text[place].strip())
            ),
            None,
        )
        if last is None or ids[last] not in self.special:
            raise StageError(
                "stop_token_untrained",
                N_(
                    "The chat template ends the model's answers without a special token (row"
                    " %(row)s), so a model trained with it would never stop. Use a model whose"
                    " template ends each answer with its stop token."
                ),
                row=text.row,
            )
        last = self.stop(text, encoding, first, last)
        self.examples.stops.add(ids[last])
        if self.probed < PROBES:
            self.probed += 1
            prompt = self.tokenizer.encode(text.text[: span[0]], add_special_tokens=False).ids
            if prompt != ids[:first]:
                self.misaligned.append(text.row)
        return first, last + 1

    def stop(self, text: Text, encoding: Encoding, first: int, last: int) -> int:
        """Which of the special tokens at the end of a turn stops the model.

        A turn may end with several: the first one at which engines stop is the one; where they
        know none of them, it is the last.
        """
        ids, chosen = encoding.ids, last
        for at in range(last, first - 1, -1):
            if ids[at] in self.stops:
                chosen = at
            elif ids[at] not in self.special and text.text[slice(*encoding.offsets[at])].strip():
                break
        return chosen

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
        tokens, trained = len(examples.ids), examples.trained.count(1)
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
            say(f"  {event}: {' '.join(rows[start : start + 1000])}")


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk
