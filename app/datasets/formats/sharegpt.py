"""ShareGPT, read as LLaMA-Factory reads it; what it skips with a line in the log is an error here.

After an optional system turn, human and observation stand at odd places and gpt and
function_call at even ones. The value of a function_call is JSON: {name, arguments}, or a list of
them, which one observation answers. A system turn wins over the column `system`.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from app.datasets.formats import messages as openai
from app.datasets.formats.parts import (
    LIST,
    OBJECT,
    TEXT,
    BadRow,
    Row,
    opened,
    optional,
    shown,
    text,
    tools_of,
    unused,
    wrong_type,
)
from app.errors import N_

FIELDS = {"conversations", "system", "tools"}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OTHER_NAMES = {
    "user": "user_tag", "assistant": "assistant_tag", "chatgpt": "assistant_tag",
    "tool": "observation_tag",
}  # fmt: skip
SPEAKS = {
    "user_tag": "user",
    "observation_tag": "tool",
    "assistant_tag": "assistant",
    "function_tag": "assistant",
}

Tags = dict[str, str]


@dataclass
class Turns:
    """What a conversation holds, and where: for reports."""

    path: str  # the field it stands in
    system: str
    messages: list[Row]  # without the system message
    first: int  # 1 after a system turn
    extra: set[str]  # names of what is not kept

    @property
    def all(self) -> list[Row]:
        system: list[Row] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages

    @property
    def last(self) -> str:
        return f"{self.path}[{self.first + len(self.messages) - 1}]"


def from_sharegpt(row: Row, tags: Tags | None = None) -> tuple[Row, set[str]]:
    tags = {**TAGS, **(tags or {})}
    turns = turns_of(row, tags)
    if turns.messages[-1]["role"] != "assistant":
        raise BadRow(
            "turn.last",
            f"{turns.last}.{tags['role_tag']}",
            N_("The last turn must be the assistant's."),
        )
    openai.check_answer(turns.messages[-1], f"{turns.last}.{tags['content_tag']}")
    kept: Row = {"messages": turns.all}
    if tools := tools_of(row.get("tools")):
        kept["tools"] = tools
    return kept, turns.extra | unused(row, {*FIELDS, turns.path})


def turns_of(row: Row, tags: Tags) -> Turns:
    name = "conversations" if "conversations" in row or "messages" not in row else "messages"
    if name not in row:
        raise BadRow("conversations.missing", name, N_("The field “conversations” is missing."))
    turns = opened(row[name])
    if not isinstance(turns, list):
        raise wrong_type("conversations.type", name, LIST, turns)
    read = Turns(name, optional(row, "system"), [], 0, set())
    if turns and isinstance(turns[0], dict) and tag_of(turns[0], tags) == "system_tag":
        read.system, read.first = value_of(turns[0], f"{name}[0]", tags), 1
    for at, turn in enumerate(turns[read.first :]):
        path = f"{name}[{at + read.first}]"
        message = turn_of(turn, path, tags, read.extra)
        if (message["role"] in ("user", "tool")) != (at % 2 == 0):
            raise BadRow(
                "turn.parity",
                f"{path}.{tags['role_tag']}",
                EXPECTS_QUESTION if at % 2 == 0 else EXPECTS_ANSWER,
                number=at + 1,
                asks=f"{tags['user_tag']}, {tags['observation_tag']}",
                answers=f"{tags['assistant_tag']}, {tags['function_tag']}",
            )
        read.messages.append(message)
    if not read.messages:
        raise BadRow("messages.empty", name, N_("The list of messages is empty."))
    # the numbers in these reports count the system turn as well
    counted: list[Row] = [{"role": "system", "content": ""}] * read.first + read.messages
    openai.link(counted, name)
    openai.check_beginning(counted, name)
    return read


EXPECTS_QUESTION = N_(
    "Turn %(number)s (the system turn not counted) must be one of: %(asks)s. They stand at odd "
    "places, and %(answers)s at even ones."
)
EXPECTS_ANSWER = N_(
    "Turn %(number)s (the system turn not counted) must be one of: %(answers)s. They stand at "
    "even places, and %(asks)s at odd ones."
)


def tag_of(turn: Row, tags: Tags) -> str:
    """Which of the tags the turn's role is; empty if none."""
    role = turn.get(tags["role_tag"])
    for tag in ("user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"):
        if role == tags[tag]:
            return tag
    return OTHER_NAMES.get(role, "") if isinstance(role, str) else ""


def turn_of(turn: Any, path: str, tags: Tags, extra: set[str]) -> Row:
    if not isinstance(turn, dict):
        raise wrong_type("message.type", path, OBJECT, turn)
    role = turn.get(tags["role_tag"])
    here = f"{path}.{tags['role_tag']}"
    if role is None:
        raise BadRow("role.missing", here, N_("The message has no role."))
    if not isinstance(role, str):
        raise wrong_type("role.type", here, TEXT, role)
    tag = tag_of(turn, tags)
    if tag == "system_tag":
        raise BadRow("turn.system", here, N_("A system message can only be the first one."))
    if not tag:
        raise BadRow(
            "role.unknown",
            here,
            N_("The role “%(role)s” is unknown. Roles are %(roles)s."),
            role=shown(role),
            roles=", ".join(tags[name] for name in (*SPEAKS, "system_tag")),
        )
    message: Row = {"role": SPEAKS[tag]}
    calls: list[Row] = []
    if tag == "function_tag":
        message["content"], calls = called(turn.get(tags["content_tag"]), path, tags)
    else:
        message["content"] = value_of(turn, path, tags)
    if (weight := openai.weight_of(turn, path, SPEAKS[tag], extra)) < 1:
        message["weight"] = weight
    if calls:
        message["tool_calls"] = calls
    known = {tags["role_tag"], tags["content_tag"], "weight", "loss_weight"}
    extra |= unused(turn, known, "conversations[].")
    return message


def value_of(turn: Row, path: str, tags: Tags) -> str:
    name = tags["content_tag"]
    if name not in turn:
        raise BadRow("content.missing", f"{path}.{name}", N_("The message has no content."))
    return text(turn[name], f"{path}.{name}", code="content.type")


def called(value: Any, path: str, tags: Tags) -> tuple[str, list[Row]]:
    """The thought before a function_call, and its calls."""
    path = f"{path}.{tags['content_tag']}"
    thought = ""
    if isinstance(value, str):
        value = text(value, path)
        if value.lstrip().startswith("<think>") and "</think>" in value:
            end = value.index("</think>") + len("</think>")
            thought, value = value[:end], value[end:]
            space = len(value) - len(value.lstrip())
            thought, value = thought + value[:space], value[space:]
        try:
            value = orjson.loads(value)
        except ValueError:
            raise BadRow("function_call.invalid", path, CALL) from None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(one, dict) and "name" in one for one in calls):
        raise BadRow("function_call.invalid", path, CALL)
    extra: set[str] = set()
    made = [
        openai.call_of({"function": one}, f"{path}[{at}]" if len(calls) > 1 else path, extra)
        for at, one in enumerate(calls)
    ]
    return thought, made


CALL = N_("A function_call is JSON: an object with name and arguments, or a list of such objects.")
