"""Excel's .xlsx, read as a stream: neither a sheet nor its texts are ever held in memory.

A cell is its text. A formula is never evaluated: its cell is the result that Excel stored, or the
formula's text where there is none. A number is written as Excel shows it without a format, a date
as ISO 8601. Rows go by the number that Excel shows beside them; the first that has cells names the
columns. The first sheet with rows is the data, others are noted.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.datasets.containers import archives, office
from app.datasets.containers.decoding import Readable
from app.datasets.containers.folders import Note
from app.datasets.containers.limits import MAX_NOTES, Budget, broken, printable
from app.datasets.containers.spool import Header, Spool
from app.errors import N_, Invalid

MAX_ROWS, MAX_CELLS = 1_048_576, 16_384
CELL = re.compile(r"([A-Z]{1,3})([1-9]\d{0,6})\Z")


def is_book(names: list[str]) -> bool:
    return office.BOOK in names


def spool(path: Path, name: str, out: Spool, budget: Budget, scratch: Path) -> list[Note]:
    """Write the rows of the first sheet that has some into `out`. Raises Invalid.

    `scratch` is a file that may be made and is removed.
    """
    with archives.opened(path, name) as book:
        for info in book.infolist():
            archives.check(info, archives.name_of(info), name)
        parts = {info.filename: info for info in book.infolist()}

        def opened(part: str) -> Readable:
            if part not in parts:
                raise broken(name)
            return archives.opener(book, parts[part], name, budget)()

        sheets = office.sheets_of(opened, name)
        formats = office.dates_of(opened("xl/styles.xml"), name) if "xl/styles.xml" in parts else []
        strings = office.Strings(scratch, name)
        try:
            if "xl/sharedStrings.xml" in parts:
                strings.load(opened("xl/sharedStrings.xml"), out.most, budget)
            return first_with_rows(sheets, opened, Reading(strings, formats, name, out))
        finally:
            strings.close()


class Reading:
    """What every sheet of a book needs to be read."""

    def __init__(self, strings: office.Strings, dates: list[bool], name: str, out: Spool) -> None:
        self.strings, self.dates, self.name, self.out = strings, dates, name, out


def first_with_rows(
    sheets: list[tuple[str, str, bool]], opened: Callable[[str], Readable], reading: Reading
) -> list[Note]:
    used = ""
    notes: list[Note] = []
    out = reading.out
    for title, part, early in sheets:
        sheet = Sheet(reading, early=early)
        if not used:
            header: Header | None = None
            for number, cells in sheet.rows(opened(part)):
                if cells is None:
                    out.too_large(number)
                elif header is None:
                    header = Header(cells, reading.name)
                elif any(cells[len(header.names) :]):
                    out.problem(
                        number,
                        "table.cells",
                        N_("This row has %(found)s cells; the header has %(columns)s."),
                        found=len(cells),
                        columns=len(header.names),
                    )
                else:
                    missing = [""] * (len(header.names) - len(cells))
                    out.row(number, header.row(cells + missing))
            used = title if out.rows else ""
        elif len(notes) < MAX_NOTES and next(sheet.rows(opened(part)), None):
            notes.append(
                Note(
                    reading.name,
                    "sheet.unread",
                    N_("The sheet “%(sheet)s” of “%(file)s” was not read: only “%(used)s” was."),
                    {
                        "sheet": printable(title),
                        "file": printable(reading.name),
                        "used": printable(used),
                    },
                )
            )
    if not used:
        raise Invalid(
            N_("No sheet of “%(file)s” has a row under its header."),
            code="file.no_rows",
            field="file",
            file=printable(reading.name),
        )
    return notes


# -- a sheet -----------------------------------------------------------------------------


class Sheet:
    """Reads rows; those without a cell that holds something are passed over."""

    def __init__(self, reading: Reading, *, early: bool) -> None:
        self.reading, self.early = reading, early
        self.most = reading.out.most
        self.done: list[tuple[int, list[str] | None]] = []
        self.number = 0
        self.cells: dict[int, str] = {}
        self.column = -1  # of the cell being read
        self.type = self.style = ""
        self.inside = ""  # v, f or t
        self.phonetic = False
        self.parts: dict[str, list[str]] = {"v": [], "f": [], "t": []}
        self.size = 0  # characters of the row

    def rows(self, stream: Readable) -> Iterator[tuple[int, list[str] | None]]:
        """Number and cells of each row; None for the cells of one that is too large."""
        made = office.parser(self.reading.name)
        made.StartElementHandler, made.EndElementHandler = self.start, self.end
        made.CharacterDataHandler = self.data
        for _ in office.feed(made, stream, self.reading.name):
            yield from self.done
            self.done.clear()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        match office.local(tag):
            case "row":
                given = attributes.get("r", "0")
                known = given.isdecimal()
                self.number = max(int(given[:9]) if known else 0, self.number + 1)
                if self.number > MAX_ROWS or not known:
                    raise broken(self.reading.name)
                self.cells, self.column, self.size = {}, -1, 0
            case "c":
                place = CELL.match(attributes.get("r", ""))
                self.column = index_of(place[1]) if place else self.column + 1
                if self.column >= MAX_CELLS:
                    raise broken(self.reading.name)
                self.type, self.style = attributes.get("t", "n"), attributes.get("s", "")
                for part in self.parts.values():
                    part.clear()
            case "v" | "f" | "t" as name:
                self.inside = name
            case "rPh":
                self.phonetic = True

    def data(self, text: str) -> None:
        if self.inside and not self.phonetic:
            self.size += len(text)
            if self.size <= self.most:
                self.parts[self.inside].append(text)

    def end(self, tag: str) -> None:
        match office.local(tag):
            case "v" | "f" | "t":
                self.inside = ""
            case "rPh":
                self.phonetic = False
            case "c":
                value = self.value()
                self.size += len(value) if self.type == "s" else 0
                if value and self.size <= self.most:
                    self.cells[self.column] = value
            case "row":
                if self.size > self.most:
                    self.done.append((self.number, None))
                elif any(value.strip() for value in self.cells.values()):
                    wide = max(self.cells) + 1
                    self.done.append((self.number, [self.cells.get(at, "") for at in range(wide)]))

    def value(self) -> str:
        """The text of the cell that was just read."""
        value, formula, inline = ("".join(self.parts[name]) for name in ("v", "f", "t"))
        if self.type == "inlineStr":
            return office.unescaped(inline)
        if not value:
            return f"={formula}" if formula else ""
        if self.type == "s":
            return self.reading.strings.get(value)
        if self.type == "str":
            return office.unescaped(value)
        if self.type == "b":
            return "false" if value == "0" else "true"
        if self.type != "n":
            return value
        dates = self.reading.dates
        dated = self.style.isdecimal() and len(self.style) < 7 and int(self.style) < len(dates)
        return number_of(value, dated=dated and dates[int(self.style)], early=self.early)


def index_of(letters: str) -> int:
    """A is 0, Z is 25, AA is 26."""
    at = 0
    for letter in letters:
        at = at * 26 + ord(letter) - 64
    return at - 1


def number_of(value: str, *, dated: bool, early: bool) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    if not dated or not 0 <= number < 2_958_466:  # the year 10000
        return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.15g}"
    seconds = timedelta(seconds=round(number * 86400))
    if early:
        start = datetime(1904, 1, 1, tzinfo=UTC)
    else:  # Excel knows a 29 February 1900
        start = datetime(1899, 12, 30 if number >= 60 else 31, tzinfo=UTC)
    shown = (start + seconds).replace(tzinfo=None)
    if number < 1 and not early:
        return shown.time().isoformat()
    return shown.date().isoformat() if number.is_integer() else shown.isoformat(" ")
