"""The texts of a row: where they stand, how they are rewritten, how they read as one passage.

A passage is what filters judge: all texts of the row (or of one side of it) together.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from app.datasets.rows.languages import language

Row = dict[str, Any]
Edit = Callable[[str], str]

SIDES = ("all", "input", "output")
MOST_CHARS = 100_000  # of a passage: what follows is not judged, so that a huge row costs no more

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(f"[{CJK}]|[^\\W_{CJK}]+(?:['’][^\\W_{CJK}]+)*")


def texts(row: Row, side: str = "all") -> Iterator[tuple[Row, str]]:
    """(object, key) of each text. Answers are `output`, what they answer is `input`."""
    if "text" in row:
        if side != "input":
            yield row, "text"
        return
    turns = [*row.get("messages", ()), *(row[key] for key in ("chosen", "rejected") if key in row)]
    for turn in turns:
        answers = turn.get("role") == "assistant"
        if side == "all" or answers == (side == "output"):
            for key in ("reasoning_content", "content"):
                if isinstance(turn.get(key), str):
                    yield turn, key


def rewrite(row: Row, edit: Edit, side: str = "all", *, calls: bool = False) -> tuple[bool, bool]:
    """Edit each text in place: whether one changed, and whether one that is needed became empty.

    With `calls`, also what tools are called with.
    """
    changed = emptied = False
    for holder, key in list(texts(row, side)):
        old = holder[key]
        new = edit(old)
        if new == old:
            continue
        changed = True
        holder[key] = new
        if old.strip() and not new.strip():
            if key == "reasoning_content":
                del holder[key]
            else:
                emptied = emptied or not holder.get("tool_calls")
    if calls and side != "input":
        turns = [*row.get("messages", ()), row.get("chosen", {}), row.get("rejected", {})]
        for call in (call for turn in turns for call in turn.get("tool_calls") or ()):
            function = call.get("function") or {}
            if "arguments" in function:
                new = arguments(function["arguments"], edit)
                changed = changed or new != function["arguments"]
                function["arguments"] = new
    return changed, emptied


def arguments(value: Any, edit: Edit) -> Any:
    """Arguments of a call, as JSON or as a text of JSON, which they stay."""
    if not isinstance(value, str):
        return inside(value, edit)
    try:
        parsed = orjson.loads(value)
    except ValueError:
        return edit(value)
    new = inside(parsed, edit)
    return value if new == parsed else orjson.dumps(new).decode()


def inside(value: Any, edit: Edit) -> Any:
    """Each text in a JSON value edited; a number that would change becomes a text."""
    if isinstance(value, dict):
        return {name: inside(one, edit) for name, one in value.items()}
    if isinstance(value, list):
        return [inside(one, edit) for one in value]
    if isinstance(value, str):
        return edit(value)
    if isinstance(value, int) and not isinstance(value, bool):
        new = edit(str(value))
        return value if new == str(value) else new
    return value


def words(text: str) -> list[str]:
    """A Chinese or Japanese character is a word; in other scripts what stands between spaces."""
    return WORD.findall(text.lower())


@dataclass
class Passage:
    """A row's texts as one, with what several filters need of it."""

    text: str

    @classmethod
    def of(cls, row: Row, side: str = "all") -> "Passage":
        return cls("\n".join(holder[key] for holder, key in texts(row, side)))

    @cached_property
    def head(self) -> str:
        return self.text[:MOST_CHARS]

    @cached_property
    def words(self) -> list[str]:
        return words(self.head)

    @cached_property
    def chinese(self) -> bool:
        """Which of the two sets of cutoffs applies: Chinese also if it is mixed with English."""
        return language(self.head) in ("zh", "mixed")
