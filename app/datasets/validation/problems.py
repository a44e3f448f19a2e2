"""What validation found, to be filtered, counted and taken home: errors and warnings."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Text, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from app.datasets.tables import DatasetIssue, DatasetVersion
from app.errors import N_, Invalid
from app.queue import transaction

LEVELS = ("error", "warning")
BATCH = 5000  # rows of a download that are read together
COLUMNS = ("level", "file", "line", "path", "code", "message")

Told = dict[str, Any]  # COLUMNS


def matching(
    version_id: str, level: str = "", code: str = "", q: str = ""
) -> list[ColumnElement[bool]]:
    """The conditions of a filter: `q` is looked for in path, code, file and what is told, or is
    the number of a line. Raises Invalid.
    """
    if level and level not in LEVELS:
        raise Invalid(
            N_("“%(name)s” is one of: %(known)s."),
            code="filter.level",
            field="level",
            name="level",
            known=", ".join(LEVELS),
        )
    found: list[ColumnElement[bool]] = [DatasetIssue.version_id == version_id]
    if level:
        found.append(DatasetIssue.level == level)
    if code:
        found.append(DatasetIssue.code == code)
    if q := q.replace("\0", "").strip():
        texts = (
            DatasetIssue.path,
            DatasetIssue.code,
            DatasetIssue.file,
            DatasetIssue.message,
            cast(DatasetIssue.params, Text),
        )
        ways = [text.icontains(q, autoescape=True) for text in texts]
        if q.isdecimal() and q.isascii() and len(q) < 10:
            ways.append(DatasetIssue.line == int(q))
        found.append(or_(*ways))
    return found


def find(
    db: Session,
    version_id: str,
    *,
    level: str = "",
    code: str = "",
    q: str = "",
    offset: int = 0,
    limit: int = 100,
) -> tuple[list[DatasetIssue], int]:
    """Errors in the order of the file, then warnings; and how many there are. Raises Invalid."""
    where = and_(*matching(version_id, level, code, q))
    total = db.scalar(select(func.count()).select_from(DatasetIssue).where(where)) or 0
    query = select(DatasetIssue).where(where).order_by(DatasetIssue.level, DatasetIssue.number)
    return list(db.scalars(query.offset(offset).limit(limit))), total


def counts(db: Session, version: DatasetVersion) -> list[dict[str, Any]]:
    """{level, code, count, listed} for each code. More may be counted than are listed."""
    query = (
        select(DatasetIssue.level, DatasetIssue.code, func.count())
        .where(DatasetIssue.version_id == version.id)
        .group_by(DatasetIssue.level, DatasetIssue.code)
    )
    known = version.checks.get("counts", {})
    found = [
        {
            "level": level,
            "code": code,
            "count": max(listed, known.get(code, 0) if level == "warning" else 0),
            "listed": listed,
        }
        for level, code, listed in db.execute(query)
    ]
    return sorted(found, key=lambda one: (one["level"], -one["count"], one["code"]))


# -- to take home ------------------------------------------------------------------------


def download(
    version_id: str, form: str, tell: Callable[[DatasetIssue], Told], **filters: str
) -> Iterator[bytes]:
    """All that a filter finds, as CSV or JSONL, in blocks. `tell` gives COLUMNS in words."""
    if form == "csv":
        yield b"\xef\xbb\xbf"  # for Excel
        yield line(list(COLUMNS))
    for level in LEVELS:
        if filters.get("level") not in ("", None, level):
            continue
        after = 0
        while batch := some(version_id, after, **{**filters, "level": level}):
            after = batch[-1].number
            told = [tell(one) for one in batch]
            if form == "csv":
                yield b"".join(line([one[name] for name in COLUMNS]) for one in told)
            else:
                yield b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in told)


def some(version_id: str, after: int, **filters: str) -> list[DatasetIssue]:
    where = and_(*matching(version_id, **filters), DatasetIssue.number > after)
    query = select(DatasetIssue).where(where).order_by(DatasetIssue.number).limit(BATCH)
    with transaction() as db:
        return list(db.scalars(query))


def line(values: list[Any]) -> bytes:
    """A line of CSV. What a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    csv.writer(out).writerow(
        [
            f"'{value}" if str(value).startswith(("=", "+", "-", "@", "\t", "\r")) else value
            for value in values
        ]
    )
    return out.getvalue().encode()
