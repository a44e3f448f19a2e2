"""What all formats share: texts, types, tools, and the error that names a place in a row."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from app.errors import N_

LIST = N_("A list is needed here, and this is of the type %(found)s.")
OBJECT = N_("An object is needed here, and this is of the type %(found)s.")
OBJECTS = N_("A list of objects is needed here, and this is of the type %(found)s.")
TEXT = N_("A text is needed here, and this is of the type %(found)s.")

Row = dict[str, Any]
NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}


@dataclass(frozen=True)
class Remark:
    """What should be known of something that can be used all the same."""

    code: str
    path: str
    message: str  # msgid
    params: dict[str, Any] = field(default_factory=dict)


class BadRow(Exception):
    """Why a row cannot be used: where in it, a stable code, and a sentence (a msgid)."""

    def __init__(self, code: str, path: str, message: str, **params: Any) -> None:
        super().__init__(message)
        self.code = code
        self.path = path
        self.message = message
        self.params = params


def text(value: Any, path: str, code: str = "text.type") -> str:
    """Raises BadRow for what is no text, or cannot be stored as one."""
    if not isinstance(value, str):
        raise wrong_type(code, path, TEXT, value)
    if "\0" in value:
        raise BadRow("text.nul", path, N_("The text contains a NUL character."))
    return value


def optional(row: Row, name: str, path: str = "") -> str:
    """The text of a field that may be absent or null."""
    value = row.get(name)
    return "" if value is None else text(value, path + name, code=f"{name}.type")


def opened(value: Any) -> Any:
    """A list or an object that stands as JSON in a text, as in a cell of a table."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except ValueError:
            return value
    return value


def flat(value: Any, path: str) -> Any:
    """`value`, if it can be written again: orjson reads deeper nesting than it writes."""
    try:
        orjson.dumps([[[[[[[[[[[[value]]]]]]]]]]]])  # as deep as an answer of the API holds it
    except TypeError:
        raise BadRow("json.deep", path, N_("The nesting is too deep.")) from None
    return value


def unused(row: Row, used: set[str], path: str = "") -> set[str]:
    """The names of the fields that hold something and are not used, fit to be shown."""
    return {
        path + shown(str(name)) for name in row.keys() - used if row[name] not in (None, "", [], {})
    }


def wrong_type(code: str, path: str, message: str, value: Any) -> BadRow:
    return BadRow(code, path, message, found=kind(value))


def kind(value: Any) -> str:
    """The JSON name of a value's type."""
    return NAMES.get(type(value), "number")


def shown(value: str) -> str:
    """A name out of the file, fit for a message: short, printable."""
    clean = "".join(char if char.isprintable() else "�" for char in value[:60])
    return clean + "…" if len(value) > 60 else clean


def tools_of(tools: Any, path: str = "tools") -> list[Row] | None:
    """A list of tools in OpenAI's form, or JSON that holds one; none when empty.

    A function that stands bare, as LLaMA-Factory has it, is wrapped.
    """
    if tools in (None, "", [], "[]"):
        return None
    if isinstance(tools, str):
        try:
            tools = orjson.loads(tools)
        except ValueError:
            raise BadRow("tools.invalid", path, N_("The tools are not valid JSON.")) from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise wrong_type("tools.type", path, OBJECTS, tools)
    kept = [tool_of(tool, f"{path}[{at}]") for at, tool in enumerate(tools)]
    return flat(kept, path) or None


def tool_of(tool: Row, path: str) -> Row:
    if "function" not in tool and "name" not in tool:  # of another type: nothing is known of it
        return tool
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("tools.function", path, N_("A tool needs function.name."))
    return tool if "function" in tool else {"type": "function", "function": tool}
