"""Text of any encoding that data comes in, as UTF-8 or as lines; nothing is replaced in silence.

A byte that cannot be decoded becomes a lone surrogate in a string, and thus bytes that are no
UTF-8: whoever parses the row reports it. Pure.
"""

import codecs
import io
from collections.abc import Iterator
from typing import Protocol

CHUNK = 2**18
HEAD = 2**20  # bytes that decide

BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
ESCAPE = "danlu.escape"


class Readable(Protocol):
    """What all streams here can do."""

    def read(self, size: int, /) -> bytes: ...


def escape(error: UnicodeError) -> tuple[str, int]:
    """Each byte that cannot be decoded, as a lone surrogate."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.end


codecs.register_error(ESCAPE, escape)


def sniff(head: bytes) -> tuple[str, int]:
    """The encoding of a text that begins with `head`, and the length of its BOM.

    By BOM; by where the NULs of ASCII text in UTF-16 and UTF-32 stand; UTF-8; else GB18030, if
    that decodes every line and UTF-8 does not decode half of those that are not ASCII.
    """
    for bom, codec in BOMS:
        if head.startswith(bom):
            return codec, len(bom)
    if codec := by_nuls(head[:400]):
        return codec, 0
    if head.isascii():
        return "utf-8", 0
    lines = [line for line in head.split(b"\n") if not line.isascii()]
    if len(head) >= HEAD and len(lines) > 1:
        lines.pop()  # perhaps cut in the middle of a letter
    good = sum(decodes(line, "utf-8") for line in lines)
    if good * 2 < len(lines) and all(decodes(line, "gb18030") for line in lines):
        return "gb18030", 0
    return "utf-8", 0


def telling(stream: Readable) -> bytes:
    """The first part of a stream that is not ASCII; nothing if there is none."""
    while chunk := stream.read(HEAD):
        if not chunk.isascii():
            return chunk
    return b""


def letters(head: bytes) -> int:
    """How many bytes are not ASCII."""
    return len(head) - len(head.decode("ascii", "ignore"))


def by_nuls(head: bytes) -> str:
    """By where NULs stand: some letters are ASCII; few of the others have a byte that is 0."""
    first, second, third, fourth = (head[at::4].count(0) for at in range(4))
    some = len(head) // 32 + 1
    if min(second, third, fourth) > max(some, first * 4):
        return "utf-32-le"
    if min(first, second, third) > max(some, fourth * 4):
        return "utf-32-be"
    if second + fourth > max(2 * some, 4 * (first + third)):
        return "utf-16-le"
    if first + third > max(2 * some, 4 * (second + fourth)):
        return "utf-16-be"
    return ""


def decodes(line: bytes, codec: str) -> bool:
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def only_returns(head: bytes) -> bool:
    """Whether lines end as they did on old Macs, which neither JSONL nor we would notice."""
    return b"\r" in head.strip() and b"\n" not in head


def texts(stream: Readable, codec: str) -> Iterator[str]:
    """The decoded text without its BOM; all line ends are newlines."""
    decoder = codecs.getincrementaldecoder(codec)(ESCAPE)
    lines = io.IncrementalNewlineDecoder(decoder, translate=True)
    first = True
    while True:
        chunk = stream.read(CHUNK)
        text = lines.decode(chunk, final=not chunk)
        if first and text:
            first, text = False, text.removeprefix("\ufeff")
        if text:
            yield text
        if not chunk:
            return


def transcoded(stream: Readable, codec: str) -> Iterator[bytes]:
    """The text in UTF-8, except where it could not be decoded."""
    for text in texts(stream, codec):
        yield text.encode("utf-8", "surrogatepass")


def lines(stream: Readable, codec: str, most: int) -> Iterator[tuple[int, str | None]]:
    """Number and text of each line, the newline included; None for one of over `most` characters.

    Memory holds one line and one chunk.
    """
    number, parts, size = 1, [""], 0
    for text in texts(stream, codec):
        *whole, rest = text.split("\n")
        for part in whole:
            size += len(part)
            if size > most:
                yield number, None
            else:
                parts.append(part)
                yield number, "".join(parts) + "\n"
            number, parts, size = number + 1, [""], 0
        size += len(rest)
        if size > most:
            parts.clear()
        else:
            parts.append(rest)
    if size:
        yield number, None if size > most else "".join(parts)


def undecoded(text: str, codec: str) -> int:
    """Where in `text`, in bytes from 1, what could not be decoded begins; 0: nowhere."""
    for at, char in enumerate(text):
        if "\ud800" <= char <= "\udfff":
            return len(text[:at].encode(codec, "replace")) + 1
    return 0
