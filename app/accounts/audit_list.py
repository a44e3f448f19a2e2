"""Reading the audit log: filters, pages, and the whole of it as CSV or JSON lines."""

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import orjson
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.accounts.tables import ApiKey, AuditEntry, Workspace
from app.db import now
from app.paging import behind
from app.queue import transaction

PIECE = 1000  # entries that an export reads at once
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run

Actor = Literal["user", "key", "service", "nobody", "system"]


class Filter(BaseModel):
    """Which entries are asked for; what is left out does not matter."""

    model_config = ConfigDict(str_strip_whitespace=True)

    user: str = Field("", max_length=200, description="A user's id, or part of their address.")
    actor: Actor | Literal[""] = Field("", description="The kind of who did it.")
    action: str = Field("", max_length=40)
    noun: str = Field("", max_length=40, description="What kind of thing: job, api_key …")
    noun_id: str = Field("", max_length=200)
    workspace: str = Field("", max_length=60)
    since: datetime | None = None
    until: datetime | None = None
    q: str = Field("", max_length=200, description="In names, ids, addresses and values.")

    def given(self) -> dict[str, Any]:
        """For addresses of the same list."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value}


class Paged(Filter):
    """A filter, and which page of what it finds."""

    after: str = Field("", max_length=200, description="The id of the last entry that you have.")
    limit: int = Field(50, ge=1, le=100)


class Exported(Filter):
    """A filter, and the form of what it leaves."""

    format: Literal["csv", "jsonl"] = "jsonl"


class AuditOut(BaseModel):
    """An entry. `before` and `after` hold only what changed; ••• stands for what is not told."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    at: datetime
    actor: str
    user_id: str | None
    user_name: str
    api_key_id: str | None
    ip: str
    agent: str
    request_id: str
    workspace_id: str | None
    action: str
    noun: str
    noun_id: str
    name: str
    before: dict[str, Any]
    after: dict[str, Any]


class AuditList(BaseModel):
    """Entries, the newest first."""

    data: list[AuditOut]
    has_more: bool


def seen(workspace_id: str | None) -> Select[AuditEntry]:
    """What may be seen: all, or the entries of one workspace."""
    query = select(AuditEntry)
    return query if workspace_id is None else query.where(AuditEntry.workspace_id == workspace_id)


def asked(workspace_id: str | None, wanted: Filter) -> Select[AuditEntry]:
    query = seen(workspace_id)
    for column in ("actor", "action", "noun", "noun_id"):
        if value := getattr(wanted, column):
            query = query.where(getattr(AuditEntry, column) == value)
    if wanted.workspace:
        query = query.where(AuditEntry.workspace_id == wanted.workspace)
    if wanted.user.startswith("usr_"):
        query = query.where(AuditEntry.user_id == wanted.user)
    elif wanted.user:
        query = query.where(AuditEntry.user_name.icontains(wanted.user, autoescape=True))
    if wanted.since:
        query = query.where(AuditEntry.at >= wanted.since)
    if wanted.until:
        query = query.where(AuditEntry.at < wanted.until)
    if wanted.q:
        query = query.where(AuditEntry.words.contains(wanted.q.lower(), autoescape=True))
    return query


def entries(
    db: Session, workspace_id: str | None, wanted: Filter, after: str, limit: int
) -> tuple[list[AuditEntry], bool]:
    """The newest first, and whether there are more. `workspace_id` None: of the whole platform."""
    order = [AuditEntry.at.desc()]
    query = behind(db, asked(workspace_id, wanted), seen(workspace_id), order, AuditEntry.id, after)
    rows = list(db.scalars(query.limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def differences(entry: AuditEntry) -> list[tuple[str, Any, Any]]:
    """What changed, one value a line: (where it stands, before, after)."""
    return list(flat(entry.before, entry.after))


def flat(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if all(isinstance(one, dict) or one is None for one in (before, after)) and (before or after):
        old, new = before or {}, after or {}
        for key in {**old, **new}:
            yield from flat(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif before not in (None, {}) or after not in (None, {}):
        yield path, shown(before), shown(after)


def shown(value: Any) -> str:
    if value in (None, ""):
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def names(db: Session, rows: list[AuditEntry]) -> dict[str, str]:
    """What ids of workspaces and keys in these entries are called."""
    workspaces = {row.workspace_id for row in rows if row.workspace_id}
    keys = {row.api_key_id for row in rows if row.api_key_id}
    found: dict[str, str] = {}
    for table, ids in ((Workspace, workspaces), (ApiKey, keys)):
        if ids:
            pairs = db.execute(select(table.id, table.name).where(table.id.in_(ids)))
            found.update((one, name) for one, name in pairs)
    return found


# -- export ------------------------------------------------------------------------------------


def pieces(workspace_id: str | None, wanted: Filter) -> Iterator[list[AuditOut]]:
    """All that is asked for, the newest first, in sessions of their own: none stays open while a slow
    reader takes its time.
    """
    last = ""
    while True:
        with transaction() as db:
            rows, more = entries(db, workspace_id, wanted, last, PIECE)
            found = [AuditOut.model_validate(row) for row in rows]
        yield found
        if not more:
            return
        last = found[-1].id


def lines(workspace_id: str | None, wanted: Filter) -> Iterator[bytes]:
    for piece in pieces(workspace_id, wanted):
        yield b"".join(orjson.dumps(one.model_dump(mode="json")) + b"\n" for one in piece)


def table(workspace_id: str | None, wanted: Filter) -> Iterator[bytes]:
    """CSV that a spreadsheet opens: UTF-8 with its mark, and nothing that begins like a formula."""
    yield "\ufeff".encode()
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(AuditOut.model_fields)
    for piece in pieces(workspace_id, wanted):
        for one in piece:
            writer.writerow([cell(value) for value in one.model_dump(mode="json").values()])
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()


def cell(value: Any) -> str:
    text = orjson.dumps(value).decode() if isinstance(value, dict) else str(value or "")
    return f"'{text}" if text.startswith(FORMULA) else text


def download(workspace_id: str | None, wanted: Exported) -> StreamingResponse:
    form = wanted.format
    made = table if form == "csv" else lines
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/jsonl"
    name = f"audit-{now():%Y%m%d-%H%M}.{form}"
    return StreamingResponse(
        made(workspace_id, wanted),
        media_type=kind,
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )
