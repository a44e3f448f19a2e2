"""The XML parts of an Office file: parsed as streams, without entities; texts kept on the disk."""

import mmap
import posixpath
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from app.datasets.containers.archives import read_all
from app.datasets.containers.decoding import Readable
from app.datasets.containers.limits import Budget, broken

CHUNK = 2**16
PART = 16 * 2**20  # bytes of the parts that describe others
MAX_STRINGS = 8_000_000
BOOK = "xl/workbook.xml"
ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
# number formats that show a date or a time: built in, and by the letters of one's own
DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}
NOT_CODE = re.compile(r'"[^"]*"|\\.|\[(?!h|m|s)[^\]]*\]|_.|\*.', re.IGNORECASE)
DATE_CODE = re.compile(r"[ymdhs]|年|月|日", re.IGNORECASE)


def parser(name: str) -> Any:
    """An XML parser that knows no entities and no namespaces' prefixes."""
    made = expat.ParserCreate(namespace_separator=" ")
    made.buffer_text = True

    def refuse(*_: Any) -> None:
        raise broken(name)

    made.StartDoctypeDeclHandler = refuse
    made.EntityDeclHandler = refuse
    return made


def feed(made: Any, stream: Readable, name: str) -> Iterator[None]:
    """Parse a stream, a chunk at a time."""
    try:
        while data := stream.read(CHUNK):
            made.Parse(data, False)
            yield
        made.Parse(b"", True)
        yield
    except (expat.ExpatError, ValueError, OverflowError) as error:
        raise broken(name) from error


def local(tag: str) -> str:
    return tag.rsplit(" ", 1)[-1]


def elements(stream: Readable, name: str) -> list[tuple[str, dict[str, str]]]:
    """All elements of a small part, with their attributes, names without namespaces."""
    found: list[tuple[str, dict[str, str]]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        found.append((local(tag), {local(key): value for key, value in attributes.items()}))
        if len(found) > 200_000:
            raise broken(name)

    made = parser(name)
    made.StartElementHandler = start
    data = read_all(stream, PART, name)
    try:
        made.Parse(data, True)
    except expat.ExpatError as error:
        raise broken(name) from error
    return found


def sheets_of(opened: Callable[[str], Readable], name: str) -> list[tuple[str, str, bool]]:
    """Title and part of each sheet, in the book's order, and whether its dates count from 1904."""
    targets = {
        one.get("Id", ""): one.get("Target", "")
        for tag, one in elements(opened("xl/_rels/workbook.xml.rels"), name)
        if tag == "Relationship" and one.get("Type", "").endswith("/worksheet")
    }
    found: list[tuple[str, str]] = []
    early = False
    for tag, one in elements(opened(BOOK), name):
        if tag == "workbookPr":
            early = one.get("date1904", "") in ("1", "true")
        elif tag == "sheet" and one.get("id") in targets:
            target = targets[one["id"]]
            part = target.lstrip("/") if target.startswith("/") else posixpath.join("xl", target)
            found.append((one.get("name", ""), posixpath.normpath(part)))
    return [(title, part, early) for title, part in found]


def dates_of(stream: Readable, name: str) -> list[bool]:
    """Of each style of cells, whether it shows a number as a date."""
    own: dict[str, bool] = {}
    styles: list[bool] = []
    inside = False
    for tag, one in elements(stream, name):
        if tag == "numFmt":
            code = NOT_CODE.sub("", one.get("formatCode", "")[:255])
            own[one.get("numFmtId", "")] = bool(DATE_CODE.search(code.replace("General", "")))
        elif tag in ("cellStyleXfs", "cellXfs", "cellStyles", "dxfs"):
            inside = tag == "cellXfs"
        elif tag == "xf" and inside:
            code = one.get("numFmtId", "0")
            styles.append(own.get(code, code.isdecimal() and int(code[:9]) in DATES))
    return styles


class Strings:
    """The texts that cells share, in a file, by their number."""

    def __init__(self, scratch: Path, name: str) -> None:
        self.scratch, self.name = scratch, name
        self.places = array("Q", [0])
        self.text: mmap.mmap | bytes = b""

    def load(self, stream: Readable, most: int, budget: Budget) -> None:
        """Read them all. One of over `most` bytes is kept as a byte more than that."""
        made = parser(self.name)
        parts: list[str] = []
        depth = {"si": 0, "rPh": 0, "t": 0}
        size = 0
        with self.scratch.open("wb") as file:

            def start(tag: str, _: dict[str, str]) -> None:
                tag = local(tag)
                if tag in depth:
                    depth[tag] += 1

            def data(text: str) -> None:
                nonlocal size
                if depth["t"] and depth["si"] and not depth["rPh"]:
                    size += len(text)
                    if size <= most:
                        parts.append(text)

            def end(tag: str) -> None:
                nonlocal size
                tag = local(tag)
                if tag in depth:
                    depth[tag] -= 1
                if tag == "si":
                    whole = unescaped("".join(parts)) if size <= most else "x" * (most + 1)
                    wrote = file.write(whole.encode("utf-8", "surrogatepass"))
                    budget.wrote(wrote, self.name)
                    self.places.append(self.places[-1] + wrote)
                    parts.clear()
                    size = 0
                    if len(self.places) > MAX_STRINGS:
                        raise broken(self.name)

            made.StartElementHandler, made.EndElementHandler = start, end
            made.CharacterDataHandler = data
            for _ in feed(made, stream, self.name):
                pass
        if self.places[-1]:
            with self.scratch.open("rb") as written:
                self.text = mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ)

    def get(self, number: str) -> str:
        at = int(number) if number.isdecimal() and len(number) < 10 else -1
        if not 0 <= at < len(self.places) - 1:
            raise broken(self.name)
        return self.text[self.places[at] : self.places[at + 1]].decode("utf-8", "surrogatepass")

    def close(self) -> None:
        if isinstance(self.text, mmap.mmap):
            self.text.close()
        self.scratch.unlink(missing_ok=True)


def unescaped(text: str) -> str:
    """What Excel writes as _x000D_."""
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "_x" in text else text
