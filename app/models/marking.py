"""Which tokens of a row carry loss: the one mask, for training, statistics and previews.

What is trained is what the model will write when it is served: for each assistant turn, the text
from the end of the generation prompt to the token that ends the turn, that token included. The
place of a turn is found by rendering, with the model's own template, the conversation up to it;
the mask follows from positions in the text, never from the ids of padding or special tokens.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from tokenizers import Encoding, Tokenizer

from app.errors import N_, Invalid
from app.models.chat_template import ChatTemplate, ChatTemplateError

# A tokenizer's record of a text takes some 300 bytes per token, so no more text than this is
# tokenised at once. A longer document is tokenised in parts that end with a line.
BATCH_CHARS = 2**19

FULL = 100  # hundredths: a weight of 1

OPENING = re.compile(r"<think>\s*$")  # a prompt that makes the model think
THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)

Row = dict[str, Any]
TrainOn = Literal["answers", "all", "last"]
Span = tuple[int, int]  # characters or tokens: [first, end)


class Dropped(Exception):
    """This row trains nothing: `kind` is no_answer, unweighted, empty, refused or unstable."""

    def __init__(self, kind: str, reason: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.reason = reason


class StopUntrained(Invalid):
    """The template ends a turn without a special token: a model so trained would never stop."""

    code = "stop_token_untrained"

    def __init__(self, row: str) -> None:
        super().__init__(
            N_(
                "The chat template ends the model's answers without a special token (row"
                " %(row)s), so a model trained with it would never stop. Use a model whose"
                " template ends each answer with its stop token."
            ),
            row=row,
        )


@dataclass(frozen=True)
class Text:
    """A sample before tokenisation. `spans` None: every token is trained."""

    row: str
    text: str
    spans: list[Span] | None
    plain: bool = False  # no conversation: it gets the tokens that open and close a document
    part: str = ""  # chosen or rejected, of a preference; good or bad, of a judged answer
    percents: tuple[int, ...] = ()  # the weight of each span, in hundredths; empty: all of them 1
    rest: int = 0  # the weight of all other tokens


@dataclass(frozen=True)
class Marked:
    """A sample's tokens, and those that the model is to write, as [first, end) in order."""

    ids: Sequence[int]
    spans: list[Span]
    percents: tuple[int, ...] = ()  # as in Text
    rest: int = 0

    def carrying(self) -> list[Span]:
        """The spans of tokens that carry loss: nothing predicts the first token of all."""
        return [(max(first, 1), end) for first, end in self.spans if end > max(first, 1)]

    def trained(self) -> bytearray:
        """The weight of each token's loss, in hundredths: 0 where it is context."""
        weights = bytearray([self.rest]) * len(self.ids)
        for number, (first, end) in enumerate(self.spans):
            percent = self.percents[number] if self.percents else FULL
            weights[first:end] = bytearray([percent]) * (end - first)
        weights[:1] = bytes(min(1, len(weights)))
        return weights


@dataclass(frozen=True)
class Marker:
    """A model's words, and how its engine reads them."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    special: set[int]  # ids that can end a turn
    stops: set[int]  # ids at which the model's engine stops already
    around: tuple[list[int], list[int]]  # ids that open and close a plain text
    now: datetime  # what templates take for the present, the same for all rows
    train_on: TrainOn = "answers"  # of conversations that are trained as such

    # -- a row's texts ---------------------------------------------------------------------

    def texts(self, row: Row, kind: str = "sft") -> list[Text]:
        """The texts that a row of this kind is trained as, most often one. Raises Dropped."""
        name = str(row.get("id", "?"))
        if kind == "pretrain" and "text" in row:
            if not row["text"]:
                raise Dropped("empty")
            return [Text(name, row["text"], None, plain=True)]
        try:
            if kind == "pretrain":
                return [Text(name, self.render(row["messages"], row), None)]
            if kind == "preference":
                return [
                    Text(name, *self.ending([*row["messages"], row[part]], row), part=part)
                    for part in ("chosen", "rejected")
                ]
            if kind == "kto":
                part = "good" if row["label"] else "bad"
                return [Text(name, *self.ending(row["messages"], row), part=part)]
            return self.answers(name, row)
        except ChatTemplateError as error:
            raise Dropped("refused", str(error.params.get("reason", error))) from error

    def render(self, messages: list[Row], row: Row, *, prompt: bool = False) -> str:
        assert self.template
        return self.template.render(
            messages, as_served(row.get("tools")), add_generation_prompt=prompt, now=self.now
        )

    def closed(self, messages: list[Row], row: Row) -> str:
        """The conversation up to an answer, its stop token included.

        Some templates (GLM's) end no turn: what stops the model is the token with which the next
        one begins, of a user or, after a call, of a tool. The model has to write that token.
        """
        text = self.render(messages, row)
        if not self.stops or text.rstrip().endswith(self.closing[0]):
            return text
        role = "tool" if messages[-1].get("tool_calls") else "user"
        try:
            longer = self.render([*messages, {"role": role, "content": "a"}], row)
        except ChatTemplateError:
            return text
        rest = longer[len(text) :]
        stop = next((word for word in self.closing[1] if rest.lstrip().startswith(word)), "")
        if not stop or not longer.startswith(text):
            return text
        return text + rest[: rest.index(stop) + len(stop)]

    @cached_property
    def closing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The texts of the special tokens, and of those at which engines stop."""
        words = [
            {one: word for one in ids if (word := self.tokenizer.id_to_token(one))}
            for ids in (self.special, self.stops)
        ]
        return tuple(words[0].values()), tuple(words[1].values())

    def answers(self, name: str, row: Row) -> list[Text]:
        """Texts with the spans of their assistant turns; one of weight 0 is context.

        Some templates render a turn differently once others follow (reasoning is taken out of
        the history). Serving never sees such a turn as an answer, so it is trained in a text of
        its own, which ends with it.
        """
        messages = row["messages"]
        every = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        asked = every[-1:] if self.train_on == "last" else every
        turns = [i for i in asked if percent(messages[i])]
        if not turns and self.train_on != "all":
            raise Dropped("unweighted" if every else "no_answer")
        if self.train_on == "all":
            turns, rest = every, FULL
        else:
            messages, rest = messages[: turns[-1] + 1], 0
        closes = bool(messages) and messages[-1]["role"] == "assistant"
        whole = self.closed(messages, row) if closes else self.render(messages, row)
        shared: list[tuple[Span, int]] = []
        texts = [(whole, shared)]
        for turn in turns:
            try:
                prompt = self.render(messages[:turn], row, prompt=True)
            except ChatTemplateError:
                if turn == 0 and (len(turns) > 1 or rest):  # a greeting: nobody asked for it
                    continue
                raise
            last = turn == len(messages) - 1
            text = whole if last else self.closed(messages[: turn + 1], row)
            text = following(prompt, text, messages[turn])
            span = (len(prompt), len(text)), percent(messages[turn])
            if whole.startswith(text):
                shared.append(span)
            elif span[1]:
                texts.append((text, [span]))
        return [
            Text(
                name,
                text,
                [span for span, _ in found],
                percents=tuple(weight for _, weight in found),
                rest=rest if found is shared else 0,
            )
            for text, found in texts
            if found or rest
        ]

    def ending(self, messages: list[Row], row: Row) -> tuple[str, list[Span]]:
        """The conversation, with the span of its last turn, which is the model's."""
        if not messages or messages[-1]["role"] != "assistant":
            raise Dropped("no_answer")
        text = self.closed(messages, row)
        prompt = self.render(messages[:-1], row, prompt=True)
        text = following(prompt, text, messages[-1])
        return text, [(len(prompt), len(text))]

    # -- a text's tokens -------------------------------------------------------------------

    def encode(self, texts: list[Text]) -> "list[Encoding | array[int]]":
        """What `mark` takes, in order. Of a very long document only the ids are kept.

        The tokenizer neither cuts nor pads: `vocabulary.load` and `Prepare` see to that.
        """
        long = [text.plain and len(text.text) > BATCH_CHARS for text in texts]
        short = [text.text for text, is_long in zip(texts, long, strict=True) if not is_long]
        encodings = iter(self.tokenizer.encode_batch(short, add_special_tokens=False))
        return [
            self.ids(text.text) if is_long else next(encodings)
            for text, is_long in zip(texts, long, strict=True)
        ]

    def ids(self, document: str) -> "array[int]":
        found = array("i")
        for part in parts(document):
            found.extend(self.tokenizer.encode(part, add_special_tokens=False).ids)
        return found

    def mark(self, text: Text, encoding: "Encoding | array[int]") -> Marked:
        """The tokens of a text, uncut. Raises StopUntrained."""
        ids: Sequence[int] = encoding if isinstance(encoding, array) else encoding.ids
        if text.plain:
            whole = array("i", self.around[0])
            whole.extend(ids)
            whole.extend(self.around[1])
            ids = whole
        if text.spans is None or isinstance(encoding, array):
            return Marked(ids, [(0, len(ids))])
        spans = [self.tokens(text, encoding, span) for span in text.spans]
        return Marked(ids, spans, text.percents, text.rest)

    def tokens(self, text: Text, encoding: Encoding, span: Span) -> Span:
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
            raise StopUntrained(text.row)
        return first, self.stop(text, encoding, ids, first, last) + 1

    def stop(self, text: Text, encoding: Encoding, ids: list[int], first: int, last: int) -> int:
        """Which of the special tokens at the end of a turn stops the model.

        A turn may end with several: the first one at which engines stop is the one; where they
        know none of them, it is the last.
        """
        chosen = last
        for at in range(last, first - 1, -1):
            if ids[at] in self.stops:
                chosen = at
            elif ids[at] not in self.special:
                place = encoding.token_to_chars(at)
                if place and text.text[slice(*place)].strip():
                    break
        return chosen


def following(prompt: str, text: str, message: Row) -> str:
    """The conversation as it goes on from the prompt that asks for its last answer.

    Where the prompt opens a thought that the template then leaves out of the answer (DeepSeek R1's
    does), the model has to think and to close the thought all the same: what the row says was
    thought, or nothing. Raises Dropped.
    """
    if not text.startswith(prompt):
        text = prompt + thought_of(message, prompt, text)
    for call in message.get("tool_calls") or ():
        if call["function"]["name"] not in text[len(prompt) :]:  # else it would learn silence
            raise Dropped("refused", "The template leaves out what the model calls.")
    return text


def thought_of(message: Row, prompt: str, text: str) -> str:
    """What follows a prompt that opened a thought: the thought, its end, the answer."""
    opening = OPENING.search(prompt)
    if not opening or not text.startswith(prompt[: opening.start()]):
        raise Dropped("unstable")
    thought, answer = message.get("reasoning_content") or "", text[opening.start() :]
    if inside := THOUGHT.match(message.get("content") or ""):
        thought, answer = inside[1], THOUGHT.sub("", answer).lstrip("\n")
    return f"{thought.strip()}\n</think>\n\n{answer}"


def as_served(tools: list[Row] | None) -> list[Row] | None:
    """Tools as an engine hands them to the template: the fields of OpenAI's, in its order, none
    left out and no others.
    """
    if tools is None:
        return None
    made = []
    for tool in tools:
        function = tool.get("function") or tool
        known = {name: function.get(name) for name in ("name", "description", "parameters")}
        if function.get("strict") is not None:
            known["strict"] = function["strict"]
        made.append({"type": "function", "function": known})
    return made


def percent(message: Row) -> int:
    """The weight of an answer in hundredths; what is more than nothing is at least one."""
    weight = message.get("weight", 1)
    return max(round(FULL * weight), 1) if weight else 0


def parts(document: str) -> Iterator[str]:
    """A long document in parts that end with a line, or where they must."""
    start = 0
    while start < len(document):
        end = start + BATCH_CHARS
        if end < len(document):
            end = document.rfind("\n", start, end) + 1 or end
        yield document[start:end]
        start = end
