"""The common shapes of rows, read at the speed of a typed decoder.

A reader takes the JSON of some rows and gives the rows as they are kept, or it raises one of
REFUSED, and they go the exact way, through `formats.normalise`. It takes only what `normalise`
would take, and `encode` makes the very same bytes of it: a test holds the two together. For the sake of
speed it does not look for NUL characters: what contains NUL must not come here.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

NUL = b"\\u0000"
Reader = Callable[[Sequence[bytes]], Any]  # rows that `encode` takes


class Turn(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(Struct, forbid_unknown_fields=True, gc=False):
    messages: Annotated[list[Turn], Meta(min_length=2)]


class Alpaca(Struct, forbid_unknown_fields=True, gc=False):
    instruction: str
    output: str
    input: str = ""
    system: str = ""


class Text(Struct, forbid_unknown_fields=True, gc=False):
    text: str


class Refused(Exception):
    """Perhaps a good row, perhaps a bad one: the exact way will say."""


REFUSED = (Refused, msgspec.MsgspecError, UnicodeError, RecursionError)


encode = msgspec.json.Encoder().encode_lines
read_conversation = msgspec.json.Decoder(Conversation).decode
read_alpaca = msgspec.json.Decoder(Alpaca).decode
read_text = msgspec.json.Decoder(Text).decode


def refuse(_: Sequence[bytes]) -> list[Any]:
    """The reader of formats that have none."""
    raise Refused


def conversations(lines: Sequence[bytes]) -> list[Conversation]:
    """[system] user, then users and assistants as they like; the last is an assistant's."""
    rows = list(map(read_conversation, lines))
    for row in rows:
        turns = row.messages
        last, first = turns[-1], turns[0].role
        if last.role != "assistant" or not last.content or last.content.isspace():
            raise Refused
        if first != "user" and (first != "system" or turns[1].role != "user"):
            raise Refused
        if len(turns) > 2:
            for turn in turns[1:]:
                if turn.role == "system":
                    raise Refused
    return rows


def alpacas(lines: Sequence[bytes]) -> list[Conversation]:
    rows = []
    for row in map(read_alpaca, lines):
        if not row.instruction.strip() or not row.output.strip():
            raise Refused
        question = f"{row.instruction}\n{row.input}" if row.input else row.instruction
        turns = [Turn("user", question), Turn("assistant", row.output)]
        if row.system:
            turns.insert(0, Turn("system", row.system))
        rows.append(Conversation(turns))
    return rows


def texts(lines: Sequence[bytes]) -> list[Text]:
    rows = list(map(read_text, lines))
    for row in rows:
        if not row.text or row.text.isspace():
            raise Refused
    return rows


READERS: dict[str, Reader] = {"messages": conversations, "alpaca": alpacas, "text": texts}
