"""Alpaca, read as LLaMA-Factory reads it.

The user turn is instruction, newline, input (empty parts left out); history pairs come before
it and are learned as well; an empty system prompt is none.
"""

from typing import Any

from app.datasets.formats.parts import (
    LIST,
    BadRow,
    Row,
    opened,
    optional,
    text,
    tools_of,
    unused,
    wrong_type,
)
from app.errors import N_

PROMPT_FIELDS = {"instruction", "input", "system", "history", "tools"}
FIELDS = PROMPT_FIELDS | {"output"}


def from_alpaca(row: Row) -> tuple[Row, set[str]]:
    messages = prompt_of(row)
    if row.get("output") is None:
        raise BadRow(
            "output.missing",
            "output",
            N_("There is no “output”, so there is nothing to learn from this row."),
        )
    output = text(row["output"], "output", code="output.type")
    if not output.strip():
        raise BadRow(
            "output.empty",
            "output",
            N_("The “output” is empty, so there is nothing to learn from this row."),
        )
    kept: Row = {"messages": [*messages, {"role": "assistant", "content": output}]}
    if tools := tools_of(row.get("tools")):
        kept["tools"] = tools
    return kept, unused(row, FIELDS)


def prompt_of(row: Row) -> list[Row]:
    """All before the answer."""
    messages: list[Row] = []
    if system := optional(row, "system"):
        messages.append({"role": "system", "content": system})
    for question, answer in history_of(row.get("history")):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    parts = [part for name in ("instruction", "input") if (part := optional(row, name))]
    if not "".join(parts).strip():
        raise BadRow(
            "instruction.empty", "instruction", N_("Both “instruction” and “input” are empty.")
        )
    messages.append({"role": "user", "content": "\n".join(parts)})
    return messages


def history_of(history: Any) -> list[tuple[str, str]]:
    if history is None or history == "":
        return []
    history = opened(history)
    if not isinstance(history, list):
        raise wrong_type("history.type", "history", LIST, history)
    pairs = []
    for number, pair in enumerate(history):
        path = f"history[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(
                "history.pair", path, N_("Each turn of the history is a pair: question, answer.")
            )
        question, answer = (text(part, f"{path}[{at}]") for at, part in enumerate(pair))
        if not (question.strip() and answer.strip()):
            raise BadRow("history.empty", path, N_("A turn of the history is empty."))
        pairs.append((question, answer))
    return pairs
