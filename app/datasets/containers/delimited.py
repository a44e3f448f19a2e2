"""CSV and TSV: the delimiter and the quoting are found out, the first row names the columns.

Cells are text: what looks like a formula stays what it is. A row is as long as the header, and
goes by the line that it begins on.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.datasets.containers import decoding
from app.datasets.containers.decoding import Readable
from app.datasets.containers.limits import printable
from app.datasets.containers.spool import Header, Spool
from app.errors import N_

SAMPLE = 2**16  # characters that decide
RESYNCS = 100  # times that an open quote is taken for a bad line and not for all that follows

csv.field_size_limit(2**31 - 1)  # ours is counted by the row; the module's is one for all


@dataclass(frozen=True)
class Style:
    """How a file is written."""

    delimiter: str = ","
    quote: str = '"'
    escape: str | None = None  # none: a quote is doubled
    spaces: bool = False  # one may stand after a delimiter

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            escapechar=self.escape,
            doublequote=self.escape is None,
            skipinitialspace=self.spaces,
            strict=True,
        )


def style_of(sample: str, *, tabs: bool) -> Style:
    """The style in which most rows of the sample are as long as its first, and that is longest.

    Of equals the first: commas (tabs for a .tsv), doubled quotes.
    """
    lines = [line + "\n" for line in sample.split("\n")]
    if len(lines) > 1:
        lines.pop()  # perhaps cut
    order = "\t,;|" if tabs else ",\t;|"
    best, most = Style(order[0]), (0.0, 0)
    for delimiter in order:
        if delimiter not in sample:
            continue
        for style in (
            Style(delimiter),
            Style(delimiter, escape="\\"),
            Style(delimiter, spaces=True),
            Style(delimiter, quote="'"),
        ):
            if style.escape and '\\"' not in sample:
                continue
            if style.spaces and f'{delimiter} "' not in sample:
                continue
            if style.quote == "'" and not sample.lstrip().startswith("'"):
                continue
            found = score(lines, style)
            if found > most:
                best, most = style, found
    return best


def score(lines: list[str], style: Style) -> tuple[float, int]:
    """The share of rows as long as the first, in tenths, and that length."""
    rows: list[list[str]] = []
    bad = 0
    reader = style.reader(iter(lines))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error:
            bad += 1
            continue
        if any(cell.strip() for cell in row):
            rows.append(row)
    if not rows or len(rows[0]) < 2:
        return 0.0, 0
    same = sum(len(row) == len(rows[0]) for row in rows)
    return round(same / (len(rows) + bad), 1), len(rows[0])


class Lines:
    """Feeds a csv reader, and remembers what it was fed since `begin`. Lines can be given back."""

    def __init__(self, lines: Iterator[tuple[int, str | None]], most: int) -> None:
        self.lines, self.most = lines, most
        self.back: list[tuple[int, str | None]] = []
        self.taken: list[tuple[int, str | None]] = []
        self.size = 0  # characters taken
        self.over = self.ended = False

    def begin(self) -> None:
        self.taken, self.size, self.over, self.ended = [], 0, False, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        one = self.back.pop() if self.back else next(self.lines, None)
        if one is None:
            self.ended = True
            raise StopIteration
        self.taken.append(one)
        text = one[1]
        self.size += len(text or "")
        if text is None or self.size > self.most:
            self.over = True
            raise StopIteration
        return text

    def give_back(self) -> None:
        """All but the first line of this row are read again."""
        self.back += reversed(self.taken[1:])


def spool(stream: Readable, codec: str, name: str, out: Spool, *, tabs: bool) -> None:
    """Write the rows of a table into `out`. Raises Invalid for a table without a header."""
    source = decoding.lines(stream, codec, out.most)
    head = list(head_of(source))
    first = head[0][1] if head else None
    if first and first.startswith("sep=") and len(first.strip()) == 5:
        style = Style(first[4])
        head = head[1:]
    else:
        style = style_of("".join(text or "" for _, text in head), tabs=tabs)
    table = Table(Lines(chain(head, source), out.most), style, codec, name, out)
    while table.read():
        pass
    if table.header is None:
        Header([], name)  # raises


def head_of(source: Iterator[tuple[int, str | None]]) -> Iterator[tuple[int, str | None]]:
    """The first lines: SAMPLE characters of them, and the line that is too long for that."""
    size = 0
    for one in source:
        yield one
        size += len(one[1] or "") or SAMPLE
        if size >= SAMPLE:
            return


class Table:
    """The rows of a file, as far as they are read."""

    def __init__(self, feed: Lines, style: Style, codec: str, name: str, out: Spool) -> None:
        self.feed, self.style, self.codec, self.name, self.out = feed, style, codec, name, out
        self.reader = style.reader(feed)
        self.header: Header | None = None
        self.columns = 0
        self.resyncs = 0

    def read(self) -> bool:
        """Read and write one row. False at the end. Raises Invalid for a bad header."""
        self.feed.begin()
        why = ""
        cells: list[str] = []
        try:
            cells = next(self.reader, [])
        except csv.Error as error:
            why = str(error)
        taken = self.feed.taken
        if not taken:
            return False
        if why or self.feed.over:
            self.bad(taken, why)
        elif any(cell.strip() for cell in cells):
            self.good(taken, cells)
        return True

    def bad(self, taken: list[tuple[int, str | None]], why: str) -> None:
        number, last = taken[0][0], taken[-1][0]
        self.reader = self.style.reader(self.feed)
        if self.header is None:
            Header([], self.name)  # raises
        if self.feed.over and last == number:
            self.out.too_large(number)
        elif self.feed.over or self.feed.ended:
            if last > number and self.columns > 1 and self.resyncs < RESYNCS:
                self.resyncs += 1
                self.feed.give_back()
                last = number
            self.out.problem(
                number,
                "table.open",
                N_("A quote that is opened here is never closed. Left out up to line %(last)s."),
                last=last,
            )
        else:
            self.out.problem(
                number,
                "table.quotes",
                N_("The quotes of this row, up to line %(last)s, are not paired: %(reason)s."),
                last=last,
                reason=printable(why),
            )

    def good(self, taken: list[tuple[int, str | None]], cells: list[str]) -> None:
        number = taken[0][0]
        if self.header is None:
            self.header, self.columns = Header(cells, self.name), len(cells)
            return
        extra = any(cells[max(self.columns, len(self.header.names)) :])
        if len(cells) < len(self.header.names) or extra:
            self.out.problem(
                number,
                "table.cells",
                N_("This row has %(found)s cells; the header has %(columns)s."),
                found=len(cells),
                columns=self.columns,
            )
            return
        self.out.row(number, self.header.row(cells), lambda: self.undecoded(taken))

    def undecoded(self, taken: list[tuple[int, str | None]]) -> dict[str, Any]:
        for number, text in taken:
            if at := decoding.undecoded(text or "", self.codec):
                return {"at": number, "byte": at, "codec": self.codec.upper()}
        return {}
