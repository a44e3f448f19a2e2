"""The common shapes of rows, read at the speed of a typed decoder.

A reader takes the JSON of some rows and gives that of the rows as they are kept, or it raises one
of REFUSED, and they go the exact way, through `formats.normalise`. It takes only what `normalise`
would take, and makes the very same bytes of it: a test holds the two together.

Texts are spelled in JSON as they are kept, as a rule. Then they are not even taken out of it,
which saves a sixth of the time: see `as_spelled`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

# of rows, and the block of JSONL they stand in; what is made is JSONL too
Reader = Callable[[Sequence[bytes], bytes], bytes]

nul = re.compile(rb"\\u0000").search  # twice as quick as `in`
# what is kept with another spelling: these escapes; "\\\\u" is taken for one, which only costs time
respelled = re.compile(rb"\\[u/]").search
SPACES = (
    " \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)
# In rows as they are kept; within a text there is a backslash before each quote. First what is no
# text, or one that begins as blank ones do; then whether it is none, or a blank one and the last.
begins_oddly = re.compile(
    rb'"content":(?!"[^\\"%b])' % bytes({one.encode()[0] for one in SPACES})
).finditer
is_odd = re.compile(
    rb'"content":(?:[^"]|"(?:\\[nrtf]|%b)*"}]})' % b"|".join(one.encode() for one in SPACES)
).match


class Turn(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(Struct, forbid_unknown_fields=True, gc=False):
    messages: Annotated[list[Turn], Meta(min_length=2)]


class RawTurn(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: Raw


class RawConversation(Struct, forbid_unknown_fields=True, gc=False):
    messages: Annotated[list[RawTurn], Meta(min_length=2)]


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

encoder = msgspec.json.Encoder()
read_conversation = msgspec.json.Decoder(Conversation).decode
read_raw = msgspec.json.Decoder(RawConversation).decode
read_alpaca = msgspec.json.Decoder(Alpaca).decode
read_text = msgspec.json.Decoder(Text).decode


def refuse(_: Sequence[bytes], __: bytes) -> bytes:
    """The reader of formats that have none."""
    raise Refused


# -- conversations -----------------------------------------------------------------------


def conversations(lines: Sequence[bytes], block: bytes) -> bytes:
    """[system] user, then users and assistants as they like; the last is an assistant's."""
    if b"\\" in block and respelled(block):
        return as_meant(lines, block)
    return as_spelled(lines, block)


def as_meant(lines: Sequence[bytes], block: bytes) -> bytes:
    """Texts are read and written again."""
    if nul(block):
        raise Refused
    rows = list(map(read_conversation, lines))
    for row in rows:
        turns = row.messages
        last, first = turns[-1], turns[0].role
        if last.role != "assistant" or not last.content or last.content.isspace():
            raise Refused
        if first != "user" and (first != "system" or turns[1].role != "user"):
            raise Refused
        if len(turns) > 2 and any(turn.role == "system" for turn in turns[1:]):
            raise Refused
    return encoder.encode_lines(rows)


def as_spelled(lines: Sequence[bytes], block: bytes) -> bytes:
    """Texts stay as they stand in the JSON, which must be how they would be written."""
    block.decode()  # raises: a text that is not read may hold anything but UTF-8
    rows = list(map(read_raw, lines))
    for row in rows:
        turns = row.messages
        first = turns[0].role
        if turns[-1].role != "assistant":
            raise Refused
        if first != "user" and (first != "system" or turns[1].role != "user"):
            raise Refused
        if len(turns) > 2:
            for turn in turns[1:]:
                if turn.role == "system":
                    raise Refused
    made = encoder.encode_lines(rows)
    if any(is_odd(made, one.start()) for one in begins_oddly(made)):
        raise Refused
    return made


# -- others ------------------------------------------------------------------------------


def alpacas(lines: Sequence[bytes], block: bytes) -> bytes:
    if nul(block):
        raise Refused
    rows = []
    for row in map(read_alpaca, lines):
        if not row.instruction.strip() or not row.output.strip():
            raise Refused
        question = f"{row.instruction}\n{row.input}" if row.input else row.instruction
        turns = [Turn("user", question), Turn("assistant", row.output)]
        if row.system:
            turns.insert(0, Turn("system", row.system))
        rows.append(Conversation(turns))
    return encoder.encode_lines(rows)


def texts(lines: Sequence[bytes], block: bytes) -> bytes:
    if nul(block):
        raise Refused
    rows = list(map(read_text, lines))
    for row in rows:
        if not row.text or row.text.isspace():
            raise Refused
    return encoder.encode_lines(rows)


READERS: dict[str, Reader] = {"messages": conversations, "alpaca": alpacas, "text": texts}
