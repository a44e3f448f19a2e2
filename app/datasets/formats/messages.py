"""Conversations as OpenAI and Bailian (ChatML) have them, and what holds of every conversation.

`weight` (OpenAI, 0 or 1) and `loss_weight` (Bailian, up to 1) become `weight`; 1 is left out.
`function_call`, `functions` and the role `function` are the older names of tool calls.
Arguments of a call become an object, which is what chat templates expect.
"""

from itertools import count
from typing import Any

import orjson

from app.datasets.formats.parts import (
    LIST,
    OBJECT,
    TEXT,
    BadRow,
    Row,
    flat,
    opened,
    shown,
    text,
    tools_of,
    unused,
    wrong_type,
)
from app.errors import N_

ROLES = ("system", "user", "assistant", "tool")
SAME = {"developer": "system", "function": "tool"}  # other names of roles
# `parallel_tool_calls` and a row's `function_call` are settings of a request, nothing to learn
FIELDS = {"messages", "tools", "functions", "parallel_tool_calls", "function_call"}
KEPT = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {
        "role", "content", "name", "weight", "loss_weight",
        "reasoning_content", "tool_calls", "function_call",
    },
    "tool": {"role", "content", "name", "tool_call_id"},
}  # fmt: skip


def from_messages(row: Row) -> tuple[Row, set[str]]:
    """A row with `messages`, or with `conversations` whose turns have roles."""
    name = "messages" if "messages" in row or "conversations" not in row else "conversations"
    messages, extra = conversation(row, name)
    check_turns(messages, name)
    kept: Row = {"messages": messages}
    if tools := tools_in(row):
        kept["tools"] = tools
    if len(row) > 1:
        extra |= unused(row, {*FIELDS, name})
    return kept, extra


def tools_in(row: Row) -> list[Row] | None:
    """Of `tools`, or of `functions`, as they were called once."""
    if row.get("tools") is not None:
        return tools_of(row["tools"])
    return tools_of(row["functions"], "functions") if row.get("functions") else None


def conversation(row: Row, name: str) -> tuple[list[Row], set[str]]:
    """The messages in the field `name`, calls and answers linked; names of what was left out."""
    messages, extra = read(row, name)
    link(messages, name)
    return messages, extra


def read(row: Row, name: str) -> tuple[list[Row], set[str]]:
    if name not in row:
        raise BadRow("messages.missing", name, N_("The field “messages” is missing."))
    turns = opened(row[name])
    if not isinstance(turns, list):
        raise wrong_type("messages.type", name, LIST, turns)
    if not turns:
        raise BadRow("messages.empty", name, N_("The list of messages is empty."))
    extra: set[str] = set()
    return [message_of(turn, f"{name}[{at}]", extra) for at, turn in enumerate(turns)], extra


def message_of(turn: Any, path: str, extra: set[str]) -> Row:
    """One message; the names of fields that are not kept are added to `extra`."""
    if not isinstance(turn, dict):
        raise wrong_type("message.type", path, OBJECT, turn)
    role = turn.get("role")
    if len(turn) == 2 and role in ROLES:  # what nearly all are
        content = turn.get("content")
        if type(content) is str and "\0" not in content:
            return {"role": role, "content": content}
    role = role_of(turn, path)
    calls = calls_of(turn, path, extra) if role == "assistant" else []
    message: Row = {"role": role}
    message["content"] = content_of(turn, path, needed=role != "tool" and not calls)
    if turn.get("name") is not None:
        message["name"] = text(turn["name"], f"{path}.name")
    if (weight := weight_of(turn, path, role, extra)) < 1:
        message["weight"] = weight
    for field, of in (("reasoning_content", "assistant"), ("tool_call_id", "tool")):
        if role == of and turn.get(field) is not None:
            message[field] = text(turn[field], f"{path}.{field}")
        if field == "reasoning_content" and calls:
            message["tool_calls"] = calls
    extra |= unused(turn, KEPT[role] | {"weight", "loss_weight"}, "messages[].")
    return message


def role_of(turn: Row, path: str) -> str:
    if "role" not in turn:
        raise BadRow("role.missing", f"{path}.role", N_("The message has no role."))
    role = turn["role"]
    if not isinstance(role, str):
        raise wrong_type("role.type", f"{path}.role", TEXT, role)
    role = SAME.get(role, role)
    if role not in ROLES:
        raise BadRow(
            "role.unknown",
            f"{path}.role",
            N_("The role “%(role)s” is unknown. Roles are %(roles)s."),
            role=shown(role),
            roles=", ".join(ROLES),
        )
    return role


def content_of(turn: Row, path: str, *, needed: bool) -> str:
    """The text of a message; parts of type `text` are joined. It may be empty, not missing."""
    path = f"{path}.content"
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(part_of(part, f"{path}[{at}]") for at, part in enumerate(content))
    if content is None and not needed:
        return ""
    if content is None and "content" not in turn:
        raise BadRow("content.missing", path, N_("The message has no content."))
    return text(content, path, code="content.type")


def part_of(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise BadRow(
            "content.part",
            path,
            N_("Only parts of type “text” can be used for tuning a language model."),
        )
    return text(part.get("text"), f"{path}.text", code="content.type")


def weight_of(turn: Row, path: str, role: str, extra: set[str]) -> float:
    """How much the message counts in the loss, 0 to 1. Only an assistant's turn has a say."""
    found: dict[str, float] = {}
    for name in ("weight", "loss_weight"):
        value = turn.get(name)
        if value is None:
            continue
        if role != "assistant":  # never learned, whatever it says: 0 is nothing to mention
            extra |= {f"messages[].{name}"} if value != 0 else set()
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            raise BadRow(
                "weight.value",
                f"{path}.{name}",
                N_("A weight is a number from 0 (not learned) to 1 (learned in full)."),
            )
        found[name] = float(value)
    if len(set(found.values())) > 1:
        raise BadRow(
            "weight.both",
            f"{path}.loss_weight",
            N_("“weight” and “loss_weight” say different things. Give one of them."),
        )
    return next(iter(found.values()), 1.0)


# -- the order of turns ------------------------------------------------------------------


def check_turns(messages: list[Row], name: str = "messages") -> None:
    """System only first, then the user; the assistant has the last word, and says something."""
    if all(message["role"] != "assistant" for message in messages):
        raise BadRow(
            "assistant.missing",
            name,
            N_("There is no assistant turn, so there is nothing to learn from this row."),
        )
    check_beginning(messages, name)
    last = messages[-1]
    path = f"{name}[{len(messages) - 1}]"
    if last["role"] != "assistant":
        raise BadRow("turn.last", f"{path}.role", N_("The last turn must be the assistant's."))
    check_answer(last, f"{path}.content")


def check_beginning(messages: list[Row], name: str = "messages") -> None:
    first = 1 if messages[0]["role"] == "system" else 0
    for number, message in enumerate(messages):
        if number and message["role"] == "system":
            raise BadRow(
                "turn.system",
                f"{name}[{number}].role",
                N_("A system message can only be the first one."),
            )
    if len(messages) == first or messages[first]["role"] != "user":
        raise BadRow(
            "turn.first",
            f"{name}[{min(first, len(messages) - 1)}].role",
            N_("The conversation must begin with a user turn, after the system message if any."),
        )


def check_prompt(messages: list[Row], name: str) -> None:
    """What is before an answer: it ends with the user, or with what a tool answered."""
    if not messages:
        raise BadRow("messages.empty", name, N_("The list of messages is empty."))
    check_beginning(messages, name)
    if messages[-1]["role"] not in ("user", "tool"):
        raise BadRow(
            "turn.prompt",
            f"{name}[{len(messages) - 1}].role",
            N_("The prompt must end with a user turn, or with the answer of a tool."),
        )


def check_answer(message: Row, path: str) -> None:
    if not message["content"].strip() and not message.get("tool_calls"):
        raise BadRow("content.empty", path, N_("The content of this message is empty."))


# -- tool calls --------------------------------------------------------------------------


def calls_of(turn: Row, path: str, extra: set[str]) -> list[Row]:
    """The calls of an assistant's turn; `id` is there only where the file has one."""
    path = f"{path}.tool_calls"
    calls = turn.get("tool_calls")
    if calls is None and turn.get("function_call"):
        path = path.replace("tool_calls", "function_call")
        calls = [{"function": turn["function_call"]}]
    if not calls:
        return []
    if not isinstance(calls, list):
        raise wrong_type("tool_calls.type", path, LIST, calls)
    return [call_of(call, f"{path}[{at}]", extra) for at, call in enumerate(calls)]


def call_of(call: Any, path: str, extra: set[str]) -> Row:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("tool_calls.function", path, N_("A tool call needs function.name."))
    extra |= unused(call, {"id", "type", "function"}, "messages[].tool_calls[].")
    extra |= unused(function, {"name", "arguments"}, "messages[].tool_calls[].function.")
    made: Row = {}
    if call.get("id") is not None:
        made["id"] = text(call["id"], f"{path}.id")
    arguments = arguments_of(function.get("arguments"), f"{path}.function.arguments")
    name = text(function["name"], f"{path}.function.name")
    return {**made, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_of(arguments: Any, path: str) -> Row:
    """An object, or JSON that holds one; none is an empty one."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except ValueError:
            raise BadRow(
                "tool_calls.arguments", path, N_("The arguments of this call are not valid JSON.")
            ) from None
    if not isinstance(arguments, dict):
        raise wrong_type("tool_calls.arguments", path, OBJECT, arguments)
    return dict(flat(arguments, path))


def link(messages: list[Row], name: str) -> None:
    """Let each tool message name the call it answers; calls without an id get one.

    One answer may stand for several calls, as LLaMA-Factory writes it. The calls of the last
    message need none. Raises BadRow where calls and answers do not meet.
    """
    if not any("tool_calls" in one or one["role"] == "tool" for one in messages):
        return
    taken = {call.get("id") for message in messages for call in message.get("tool_calls", ())}
    # nine signs, as some templates ask
    fresh = (one for number in count(1) if (one := f"call{number:05}") not in taken)
    for number, message in enumerate(messages):
        if message["role"] == "tool" and (
            number == 0 or messages[number - 1]["role"] not in ("assistant", "tool")
        ):
            raise BadRow("turn.tool", f"{name}[{number}].role", AFTER_CALL)
        if message["role"] != "assistant":
            continue
        answers = answers_after(messages, number)
        calls = message.get("tool_calls", [])
        if answers and not calls:
            raise BadRow("turn.tool", f"{name}[{number + 1}].role", AFTER_CALL)
        calls[:] = [one if "id" in one else {"id": next(fresh), **one} for one in calls]
        if calls:
            pair(calls, answers, f"{name}[{number}]", f"{name}[{number + 1}]")
            if not answers and number + 1 < len(messages):
                raise BadRow("tool_calls.unanswered", f"{name}[{number}].tool_calls", UNANSWERED)


AFTER_CALL = N_("A tool message must follow an assistant turn that calls a tool.")
UNANSWERED = N_("A call of this turn has no answer: a tool message must follow for each call.")


def answers_after(messages: list[Row], number: int) -> list[Row]:
    """The tool messages that follow message `number` without another between."""
    end = number + 1
    while end < len(messages) and messages[end]["role"] == "tool":
        end += 1
    return messages[number + 1 : end]


def pair(calls: list[Row], answers: list[Row], path: str, first: str) -> None:
    """`path` is the turn that calls, `first` the message after it: for the reports."""
    base, _, start = first.rpartition("[")
    begin = int(start[:-1])
    ids = [call["id"] for call in calls]
    if len(set(ids)) < len(ids):
        raise BadRow(
            "tool_calls.id", f"{path}.tool_calls", N_("Two calls of this turn have the same id.")
        )
    named = any("tool_call_id" in answer for answer in answers)
    left = list(ids)
    for at, answer in enumerate(answers):
        here = f"{base}[{begin + at}].tool_call_id"
        if not named and left:
            answer["tool_call_id"] = left[0]
        if "tool_call_id" not in answer:
            message = N_("This answer does not say which call it belongs to.")
            raise BadRow("tool_call_id.missing", here, message)
        if answer["tool_call_id"] not in left:
            raise BadRow(
                "tool_call_id.unknown",
                here,
                N_("No call that waits for an answer has the id “%(id)s”."),
                id=shown(answer["tool_call_id"]),
            )
        left.remove(answer["tool_call_id"])
    if left and len(answers) > 1:
        raise BadRow("tool_calls.unanswered", f"{path}.tool_calls", UNANSWERED)
