"""What a command prints: results on stdout, as tables or JSON; everything else on stderr."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.client import Failed, Row
from app.cli.text import _

if TYPE_CHECKING:  # which `--help` does without
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help=_("Print the API's JSON and nothing else."))]
Yes = Annotated[bool, typer.Option("--yes", "-y", help=_("Do not ask."))]


@lru_cache
def out() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


@lru_cache
def err() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def show(value: Any, as_json: bool, say_it: Callable[[Any], None]) -> None:
    """The API's JSON, or what `say_it` makes of it."""
    if as_json:
        show_json(value)
    else:
        say_it(value)


def show_table(rows: list[Row], columns: Mapping[str, Callable[[Row], Any]], empty: str) -> None:
    """A line for each row, or the sentence `empty`. A cell is text: nothing in it is markup."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        err().print(empty, markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name == "ID")  # to be copied whole
    for row in rows:
        table.add_row(*(Text(plain(cell(row))) for cell in columns.values()))
    out().print(table)


def plain(value: Any) -> str:
    """As text that cannot steer a terminal."""
    text = "" if value is None else str(value)
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def say(text: str) -> None:
    """A result, for a person."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """How it goes on; on stderr, so that results can be piped."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def sure(question: str, yes: bool) -> None:
    """Ask a person before something goes; a script says --yes or is not asked. Raises Failed."""
    if not yes and sys.stdin.isatty() and not typer.confirm(question, err=True):
        raise Failed(_("Nothing was done."))


def bytes_of(size: float | None) -> str:
    if size is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def day(at: str | None) -> str:
    """A time of the API, to the minute, in the time zone here."""
    from datetime import datetime

    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}" if at else ""
