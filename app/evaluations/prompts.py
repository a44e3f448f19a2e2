"""What a row asks, and what should be answered. Pure."""

import contextlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.evaluations.schemas import Settings

Row = dict[str, Any]
THOUGHT = re.compile(r"^\s*(?:<think>)?.*?</think>\s*", re.DOTALL)
ASKED = ("role", "content", "name", "tool_calls", "tool_call_id")
KINDS = ("sft", "preference", "kto")  # of rows that ask something


@dataclass(frozen=True)
class Question:
    messages: list[dict[str, Any]]
    reference: str
    tools: list[dict[str, Any]] | None = None

    @property
    def length(self) -> int:
        return sum(len(str(one.get("content") or "")) for one in self.messages)


def question(row: Row, system: str | None = None) -> Question:
    """`system` takes the place of the row's own; empty, there is none."""
    messages, reference = split(row)
    messages = under(messages, system)
    return Question([asked(one) for one in messages], said(reference), row.get("tools"))


def reread(row: Row, system: str | None = None) -> Row:
    """The row as training would read it: the prompt, the answer that is the reference, the tools."""
    messages, answer = split(row)
    messages = under(messages, system)
    if answer:
        messages = [*messages, {name: of for name, of in answer.items() if name != "weight"}]
    return {"messages": messages, "tools": row.get("tools")}


def under(messages: list[Row], system: str | None) -> list[Row]:
    """With this system prompt instead of their own, if it is not None; empty, with none."""
    if system is None:
        return messages
    rest = [one for one in messages if one["role"] != "system"]
    return [{"role": "system", "content": system}, *rest] if system else rest


def split(row: Row) -> tuple[list[Row], Row]:
    """The prompt, and the message that follows it: what was chosen, or the last answer."""
    messages = row["messages"]
    if "chosen" in row:
        return messages, row["chosen"]
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]
    return messages, {}


def asked(message: Row) -> Row:
    """As engines take it: arguments of calls are texts there."""
    found = {name: message[name] for name in ASKED if name in message}
    if calls := found.get("tool_calls"):
        found["tool_calls"] = [call | {"function": spelled(call["function"])} for call in calls]
    return found


def spelled(function: Row) -> Row:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        return function
    return function | {"arguments": orjson.dumps(arguments).decode()}


def said(message: Row) -> str:
    """The text of an answer; calls of tools as JSON, where it says nothing else."""
    content = message.get("content") or ""
    if not content and (calls := message.get("tool_calls")):
        found = []
        for call in calls:
            arguments = call["function"].get("arguments")
            if isinstance(arguments, str):
                with contextlib.suppress(orjson.JSONDecodeError):
                    arguments = orjson.loads(arguments)
            found.append({"name": call["function"].get("name"), "arguments": arguments})
        return orjson.dumps(found[0] if len(found) == 1 else found).decode()
    return str(content)


def thoughtless(text: str) -> str:
    """Without what a model thought aloud before it answered."""
    return THOUGHT.sub("", text, count=1) if "</think>" in text else text


def body(name: str, question: Question, settings: Settings) -> dict[str, Any]:
    """Of the request."""
    found: dict[str, Any] = {
        "model": name,
        "messages": question.messages,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    if settings.top_p < 1:
        found["top_p"] = settings.top_p
    if question.tools:
        found["tools"] = question.tools
    return found


def numbers(rows: int, limit: int | None, seed: int) -> Sequence[int]:
    """Which rows are asked, in order."""
    if limit is None or limit >= rows:
        return range(rows)
    return sorted(random.Random(seed).sample(range(rows), limit))  # noqa: S311 - no secret


def source(files: Sequence[dict[str, Any]], number: int) -> str:
    """The file that a row came from, where a version has several that say how many rows."""
    if len(files) > 1:
        for file in files:
            number -= file.get("rows") or 0
            if number < 0:
                return str(file.get("name", ""))
    return ""
