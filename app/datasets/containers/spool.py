"""Writes the plain files that containers become: one JSON row a line, on the line of its number."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from app.datasets.containers import reader
from app.datasets.containers.limits import MAX_COLUMNS, MAX_NAME, Budget, printable
from app.errors import N_, Invalid

BUFFER = 2**18

# columns of a table that can hold nothing but a list or an object, written as JSON
STRUCTURED = {
    "messages",
    "conversations",
    "history",
    "preferred_output",
    "non_preferred_output",
}
LABELS = {"true": True, "false": False}


class Spool:
    """An open file of rows. Numbers must rise; those left out are blank lines."""

    def __init__(self, path: Path, name: str, budget: Budget, most: int) -> None:
        self.name, self.budget, self.most = name, budget, most
        self.file = path.open("wb")
        self.pending: list[bytes] = []
        self.size = 0  # bytes that are pending
        self.at = 0  # the line written last
        self.rows = 0  # and problems

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.file.close()

    def flush(self) -> None:
        self.file.writelines(self.pending)
        self.pending.clear()
        size, self.size = self.size, 0
        self.budget.wrote(size, self.name)

    def line(self, number: int, data: bytes) -> None:
        if gap := max(number - self.at - 1, 0):
            self.pending.append(b"\n" * gap)
        self.pending += (data, b"\n")
        self.size += gap + len(data) + 1
        self.at += gap + 1
        self.rows += 1
        if self.size > BUFFER:
            self.flush()

    def problem(self, number: int, code: str, message: str, **params: Any) -> None:
        self.line(number, reader.told(code, message, **params))

    def too_large(self, number: int) -> None:
        self.problem(
            number,
            "row.too_large",
            N_("The row is larger than %(most)s MiB."),
            most=self.most // 2**20,
        )

    def row(
        self,
        number: int,
        row: dict[str, Any],
        where: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """Write a row. `where` is asked for {line, byte} if its text could not be decoded."""
        try:
            data = orjson.dumps(row)
        except TypeError as error:  # surrogates, or too deep
            if where and (place := where()):
                self.problem(
                    number,
                    "text.bytes",
                    N_(
                        "Byte %(byte)s of line %(at)s is no text in the file's encoding, %(codec)s."
                    ),
                    **place,
                )
            elif "surrogates" in str(error):
                self.problem(number, "text.encoding.cell", N_("The row is not valid Unicode text."))
            else:
                self.problem(number, "json.deep", N_("The nesting is too deep."))
            return
        if len(data) > self.most:
            self.too_large(number)
        else:
            self.line(number, data)


class Header:
    """The names of a table's columns, from its first row."""

    def __init__(self, cells: list[str], name: str) -> None:
        """Raises Invalid for what names no columns."""
        while cells and not cells[-1].strip():
            cells = cells[:-1]
        self.names = [cell.strip() for cell in cells]
        file = printable(name)
        if not self.names or any(
            len(one) > MAX_NAME or not one.replace("\n", "").isprintable() for one in self.names
        ):
            raise Invalid(
                N_(
                    "The first row of “%(file)s” has to name the columns, such as “instruction” "
                    "and “output”."
                ),
                code="file.header",
                field="file",
                file=file,
            )
        if len(self.names) > MAX_COLUMNS:
            raise Invalid(
                N_("“%(file)s” has more than %(most)s columns."),
                code="file.columns",
                field="file",
                file=file,
                most=MAX_COLUMNS,
            )
        self.unnamed = "" in self.names
        self.special = [one for one in self.names if one in STRUCTURED or one == "label"]
        for at, one in enumerate(self.names):
            if one and one in self.names[:at]:
                raise Invalid(
                    N_("“%(file)s” has two columns of the name “%(column)s”."),
                    code="file.column_twice",
                    field="file",
                    file=file,
                    column=printable(one),
                )

    def row(self, cells: list[str]) -> dict[str, Any]:
        """A row's cells by column. A column without a name counts only where it holds something."""
        row: dict[str, Any] = dict(zip(self.names, cells, strict=False))
        if self.unnamed or len(cells) > len(self.names):
            row.pop("", None)
            for at, cell in enumerate(cells):
                if cell.strip() and not (at < len(self.names) and self.names[at]):
                    row[f"column {at + 1}"] = cell
        for name in self.special:
            if name in row and (value := value_of(name, row.pop(name))) is not None:
                row[name] = value
        return row


def value_of(name: str, cell: str) -> Any:
    """A cell is text, as it stands, and is never evaluated.

    But columns that are lists or objects by their name hold JSON, and a label is true or false.
    Nothing in these means that the row has no such field.
    """
    if not cell.strip():
        return None
    if name == "label":
        return LABELS.get(cell.strip().lower(), cell)
    try:
        return orjson.loads(cell)
    except ValueError:
        return cell
