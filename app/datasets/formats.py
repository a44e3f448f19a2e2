"""What a row of an upload may be, and the one form in which rows are kept.

`messages` rows follow OpenAI's fine-tuning format. `alpaca` rows become messages the way
LLaMA-Factory reads them: the user turn is instruction, newline, input (empty parts left out);
history pairs come before it; an empty system prompt is none.
Pure: only the standard library and orjson.
"""

import hashlib
from typing import Any

import orjson

from app.errors import N_

ROLES = ("system", "user", "assistant", "tool")
MESSAGES_FIELDS = {"messages", "tools"}
ALPACA_FIELDS = {"instruction", "input", "output", "system", "history", "tools"}
# fields of a message that are kept, by role
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "reasoning_content"},
    "tool": {"role", "content", "name", "tool_call_id"},
}

LIST = N_("A list is needed here, and this is of the type %(found)s.")
OBJECT = N_("An object is needed here, and this is of the type %(found)s.")
OBJECTS = N_("A list of objects is needed here, and this is of the type %(found)s.")
TEXT = N_("A text is needed here, and this is of the type %(found)s.")

Row = dict[str, Any]


class BadRow(Exception):
    """Why a row cannot be used: where in it, a stable code, and a sentence (a msgid)."""

    def __init__(self, code: str, path: str, message: str, **params: Any) -> None:
        super().__init__(message)
        self.code = code
        self.path = path
        self.message = message
        self.params = params


def detect(row: Any) -> str:
    """`messages`, `alpaca`, or an empty string when it is neither."""
    if isinstance(row, dict):
        if "messages" in row:
            return "messages"
        if "instruction" in row or "output" in row:
            return "alpaca"
    return ""


def normalise(row: Any, kind_of_file: str) -> tuple[Row, set[str]]:
    """The row as `{messages, tools?}`, and the names of the fields that were left out.

    Raises BadRow with the first thing that is wrong.
    """
    if not isinstance(row, dict):
        raise BadRow(
            "row.type",
            "",
            N_("A row must be a JSON object, and this is of the type %(found)s."),
            found=kind(row),
        )
    if kind_of_file == "messages":
        return from_messages(row)
    if kind_of_file == "alpaca":
        return from_alpaca(row)
    raise BadRow(
        "row.format",
        "",
        N_("This row has neither “messages” nor “instruction” and “output”."),
    )


def fingerprint(digest: str, row: Row) -> str:
    """The running hash over rows: of the hash so far and this row without its id. Hex."""
    body = {name: value for name, value in row.items() if name != "id"}
    return hashlib.sha256(digest.encode() + orjson.dumps(body)).hexdigest()


# -- messages ----------------------------------------------------------------------------


def from_messages(row: Row) -> tuple[Row, set[str]]:
    unused = {shown(name) for name in row.keys() - MESSAGES_FIELDS}
    turns = row.get("messages")
    if "messages" not in row:
        raise BadRow("messages.missing", "messages", N_("The field “messages” is missing."))
    if not isinstance(turns, list):
        raise wrong_type("messages.type", "messages", LIST, turns)
    if not turns:
        raise BadRow("messages.empty", "messages", N_("The list of messages is empty."))
    kept: Row = {"messages": []}
    for number, turn in enumerate(turns):
        message, extra = message_of(turn, f"messages[{number}]")
        kept["messages"].append(message)
        unused |= extra
    check_turns(kept["messages"])
    if tools := tools_of(row.get("tools")):
        kept["tools"] = tools
    return kept, unused


def message_of(turn: Any, path: str) -> tuple[Row, set[str]]:
    if not isinstance(turn, dict):
        raise wrong_type("message.type", path, OBJECT, turn)
    if "role" not in turn:
        raise BadRow("role.missing", f"{path}.role", N_("The message has no role."))
    role = turn["role"]
    if not isinstance(role, str):
        raise wrong_type("role.type", f"{path}.role", TEXT, role)
    if role not in ROLES:
        raise BadRow(
            "role.unknown",
            f"{path}.role",
            N_("The role “%(role)s” is unknown. Roles are %(roles)s."),
            role=shown(role),
            roles=", ".join(ROLES),
        )
    message: Row = {"role": role}
    calls = turn.get("tool_calls") if role == "assistant" else None
    message["content"] = content_of(turn, path, needed=role != "tool" and not calls)
    if calls:
        message["tool_calls"] = calls_of(calls, f"{path}.tool_calls")
    for name in ("name", "reasoning_content", "tool_call_id"):
        if name in MESSAGE_FIELDS[role] and turn.get(name) is not None:
            message[name] = text(turn[name], f"{path}.{name}")
    extra = {f"messages[].{shown(name)}" for name in turn.keys() - MESSAGE_FIELDS[role]}
    return message, extra


def content_of(turn: Row, path: str, *, needed: bool) -> str:
    """The text of a message; parts of type `text` are joined. Raises BadRow."""
    path = f"{path}.content"
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(part_of(part, f"{path}[{at}]") for at, part in enumerate(content))
    if content is None and not needed:
        return ""
    if content is None and "content" not in turn:
        raise BadRow("content.missing", path, N_("The message has no content."))
    content = text(content, path, code="content.type")
    if needed and not content.strip():
        raise BadRow("content.empty", path, N_("The content of this message is empty."))
    return content


def part_of(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise BadRow(
            "content.part",
            path,
            N_("Only parts of type “text” can be used for tuning a language model."),
        )
    return text(part.get("text"), f"{path}.text", code="content.type")


def check_turns(messages: list[Row]) -> None:
    """System only first, then the user; tools answer calls; the assistant has the last word."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise BadRow(
            "assistant.missing",
            "messages",
            N_("There is no assistant turn, so there is nothing to learn from this row."),
        )
    first = 1 if roles[0] == "system" else 0
    if "system" in roles[1:]:
        raise BadRow(
            "turn.system",
            f"messages[{roles.index('system', 1)}].role",
            N_("A system message can only be the first one."),
        )
    if roles[first] != "user":
        raise BadRow(
            "turn.first",
            f"messages[{first}].role",
            N_("The conversation must begin with a user turn, after the system message if any."),
        )
    for number, role in enumerate(roles):
        before = messages[number - 1]
        if role == "tool" and not (before["role"] == "tool" or "tool_calls" in before):
            raise BadRow(
                "turn.tool",
                f"messages[{number}].role",
                N_("A tool message must follow an assistant turn that calls a tool."),
            )
    if roles[-1] != "assistant":
        raise BadRow(
            "turn.last",
            f"messages[{len(roles) - 1}].role",
            N_("The last turn must be the assistant's."),
        )


# -- tools -------------------------------------------------------------------------------


def calls_of(calls: Any, path: str) -> list[Row]:
    if not isinstance(calls, list):
        raise wrong_type("tool_calls.type", path, LIST, calls)
    kept: list[Row] = []
    for number, call in enumerate(calls):
        here = f"{path}[{number}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("tool_calls.function", here, N_("A tool call needs function.name."))
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, str | dict):
            raise wrong_type(
                "tool_calls.arguments", f"{here}.function.arguments", OBJECT, arguments
            )
        made: Row = {"type": "function"}
        if isinstance(call.get("id"), str):
            made["id"] = call["id"]
        made["function"] = {"name": function["name"], "arguments": flat(arguments, here)}
        kept.append(made)
    return kept


def tools_of(tools: Any) -> list[Row] | None:
    """A list of tools, or JSON that holds one; none when empty."""
    if tools in (None, "", []):
        return None
    if isinstance(tools, str):
        try:
            tools = orjson.loads(tools)
        except ValueError:
            raise BadRow("tools.invalid", "tools", N_("The tools are not valid JSON.")) from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise wrong_type("tools.type", "tools", OBJECTS, tools)
    kept: list[Row] = flat(tools, "tools")
    return kept or None


def flat(value: Any, path: str) -> Any:
    """`value`, if it can be written again: orjson reads deeper nesting than it writes."""
    try:
        orjson.dumps([[[[[[[[[[[[value]]]]]]]]]]]])  # as deep as an answer of the API holds it
    except TypeError:
        raise BadRow("json.deep", path, N_("The nesting is too deep.")) from None
    return value


# -- alpaca ------------------------------------------------------------------------------


def from_alpaca(row: Row) -> tuple[Row, set[str]]:
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
    messages.append({"role": "assistant", "content": output})
    kept: Row = {"messages": messages}
    if tools := tools_of(row.get("tools")):
        kept["tools"] = tools
    return kept, {shown(name) for name in row.keys() - ALPACA_FIELDS}


def optional(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None else text(value, name, code=f"{name}.type")


def history_of(history: Any) -> list[tuple[str, str]]:
    if history is None:
        return []
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


# -- parts -------------------------------------------------------------------------------


def text(value: Any, path: str, code: str = "text.type") -> str:
    if not isinstance(value, str):
        raise wrong_type(code, path, TEXT, value)
    if "\0" in value:
        raise BadRow("text.nul", path, N_("The text contains a NUL character."))
    return value


def wrong_type(code: str, path: str, message: str, value: Any) -> BadRow:
    return BadRow(code, path, message, found=kind(value))


def kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean"}
    return "null" if value is None else names.get(type(value), "number")


def shown(value: str) -> str:
    """A name out of the file, fit for a message: short, printable."""
    clean = "".join(char if char.isprintable() else "�" for char in value[:60])
    return clean + "…" if len(value) > 60 else clean
