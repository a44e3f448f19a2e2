"""What the API says about drafts, and takes to change them."""

from datetime import datetime
from typing import Any, Literal

import orjson
from fastapi import Request
from pydantic import BaseModel, Field

from app.datasets.drafts import comparing, differing, overlay
from app.datasets.drafts.acts import Done
from app.datasets.drafts.comparing import Difference
from app.datasets.drafts.overlay import Entry
from app.datasets.drafts.replacing import Preview, Wanted
from app.datasets.tables import DatasetComparison, DatasetVersion, DraftAct, RowEdit
from app.web import translate

VERSION = Field("", description="A number or an id; the newest if left out")
Role = Literal["system", "user", "assistant", "tool"]
Change = Literal["", "added", "removed", "changed"]


# -- in ----------------------------------------------------------------------------------


class RowBody(BaseModel):
    """A row, and the hash of what it replaces."""

    version: str = VERSION
    row: dict[str, Any] = Field(description="The whole row, as /rows gives it; its id is kept")
    hash: str = Field(description="Of the row as it was read: 409 if it is another by now")


class RowsBody(BaseModel):
    """Rows to add, and where."""

    version: str = VERSION
    rows: list[dict[str, Any]]
    after: str = Field("", description="Id of the row they follow; at the end if left out")


class Filter(BaseModel):
    """As the filters of /rows."""

    q: str = Field("", max_length=500)
    role: str = ""
    min_length: int | None = Field(None, description="Characters, of all texts of a row")
    max_length: int | None = None
    language: str = ""
    flag: str = ""


class DeleteBody(BaseModel):
    """Rows by id, or all that a filter finds."""

    version: str = VERSION
    ids: list[str] = Field([], description="Rows to delete, or")
    filter: Filter | None = Field(None, description="what finds them")


class RestoreBody(BaseModel):
    """Ids of deleted rows."""

    version: str = VERSION
    ids: list[str]


class VersionBody(BaseModel):
    """Which version; the draft if left out."""

    version: str = VERSION


class ReplaceBody(BaseModel):
    """What to find, and what to put in its place."""

    version: str = VERSION
    find: str
    replace: str = ""
    regex: bool = Field(False, description=r"RE2; `replace` may then hold \1 and \g<name>")
    case: bool = Field(True, description="Upper and lower case differ")
    roles: list[Role] = Field([], description="Only in turns of these; empty: everywhere")
    apply: bool = Field(False, description="Do it; otherwise only say what would change")
    offset: int = Field(0, ge=0, description="Of a preview: the row to go on from")

    def wanted(self) -> Wanted:
        return Wanted(self.find, self.replace, self.regex, self.case, tuple(self.roles))


# -- out ---------------------------------------------------------------------------------


class Act(BaseModel):
    """A change of a draft, which is undone as one."""

    id: str
    number: int
    what: str = Field(description="edit, add, delete, restore, replace or publish")
    state: str = Field(description="running, done, undone, dropped or failed")
    rows: int = Field(description="How many it changed")
    refused: int = Field(description="Rows left as they were, as a rule forbids the change")
    error: str = Field(description="Why it failed, for people")
    user: str | None
    at: datetime


class Edited(BaseModel):
    """What a change of a draft did."""

    act: Act
    rows: int = Field(description="Of the draft, after it")
    data: list[dict[str, Any]] = Field([], description="{index, id, hash, …}: the rows written")


class History(BaseModel):
    """Changes of a draft, the newest first."""

    data: list[Act]
    has_more: bool


class EditOut(BaseModel):
    """A row before and after a change."""

    row_id: str
    before: dict[str, Any] | None = Field(description="null: there was no such row")
    after: dict[str, Any] | None = Field(description="null: it was deleted")


class EditList(BaseModel):
    """Rows that a change changed."""

    data: list[EditOut]
    has_more: bool


class HitOut(BaseModel):
    """A place where something was found."""

    path: str
    before: str
    found: str
    put: str
    after: str


class Example(BaseModel):
    """An example of a row."""

    index: int
    id: str
    hits: list[HitOut]


class PreviewOut(BaseModel):
    """What find and replace would change."""

    rows: int = Field(description="That would change, up to row `next_offset`")
    matches: int
    refused: int = Field(description="Rows that a rule would forbid: they stay as they are")
    examples: list[Example] = Field(description="The first 20 rows")
    next_offset: int
    has_more: bool = Field(description="Ask again with `offset`: not all rows were looked at")
    total: int


class Pair(BaseModel):
    """A part of a row in both versions."""

    change: str = Field(description="same, changed, added or removed")
    label: str = Field(description="A role, or tools, label, text, chosen, rejected")
    path: str
    fields: dict[str, list[tuple[str, str]]] = Field(
        description="By field: [same, old or new; text] in order"
    )


class DifferenceOut(BaseModel):
    """A row that differs."""

    change: str
    old: dict[str, Any] | None = Field(description="{index, id, …}")
    new: dict[str, Any] | None
    parts: list[Pair]


class Comparison(BaseModel):
    """Two versions of a dataset, row by row."""

    old: int = Field(description="The version's number")
    new: int
    state: str = Field(description="running, done or failed")
    progress: float = Field(description="0 to 1")
    added: int
    removed: int
    changed: int
    same: int
    data: list[DifferenceOut]
    has_more: bool


def act_out(request: Request, act: DraftAct, user: str | None) -> Act:
    error = act.error
    return Act(
        id=act.id,
        number=act.number,
        what=act.what,
        state=act.state,
        rows=act.rows,
        refused=act.params.get("refused", 0) if act.params else 0,
        error=translate(request, error["message"], **error["params"]) if error else "",
        user=user,
        at=act.at,
    )


def row_out(entry: Entry) -> dict[str, Any]:
    row = entry.row
    return {"index": entry.number, "id": row["id"], "hash": entry.hash} | row


def edited(request: Request, done: Done, user: str, entries: list[Entry] | None = None) -> Edited:
    return Edited(
        act=act_out(request, done.act, user),
        rows=done.version.rows,
        data=[row_out(entry) for entry in entries or []],
    )


def edit_out(edit: RowEdit) -> EditOut:
    return EditOut(
        row_id=edit.row_id,
        before=orjson.loads(edit.before) if edit.before else None,
        after=orjson.loads(edit.after) if edit.after else None,
    )


def preview_out(found: Preview) -> PreviewOut:
    return PreviewOut(
        rows=found.rows,
        matches=found.matches,
        refused=found.refused,
        examples=[
            Example(index=number, id=row_id, hits=[HitOut(**vars(hit)) for hit in hits])
            for number, row_id, hits in found.examples
        ],
        next_offset=found.next_offset,
        has_more=found.has_more,
        total=found.total,
    )


def told(old: DatasetVersion, new: DatasetVersion, one: Difference) -> DifferenceOut:
    """A difference, with the rows and what differs in them."""
    sides = [
        None if number is None else overlay.row(version, number)
        for version, number in ((old, one.old), (new, one.new))
    ]
    return DifferenceOut(
        change=one.change,
        old=sides[0] and {"index": one.old} | sides[0],
        new=sides[1] and {"index": one.new} | sides[1],
        parts=pairs(sides[0], sides[1]),
    )


def pairs(old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[Pair]:
    return [
        Pair(change=one.change, label=one.label, path=one.path, fields=dict(one.fields))
        for one in differing.rows(old, new)
    ]


def comparison(
    one: DatasetComparison,
    old: DatasetVersion,
    new: DatasetVersion,
    *,
    change: str,
    offset: int,
    limit: int,
) -> Comparison:
    found: list[Difference] = []
    if one.state == "done":
        found = comparing.differences(one, change=change, offset=offset, limit=limit + 1)
    counts = {name: one.counts.get(name, 0) for name in (*comparing.CHANGES, "same")}
    return Comparison(
        old=old.number,
        new=new.number,
        state=one.state,
        progress=one.progress,
        data=[told(old, new, each) for each in found[:limit]],
        has_more=len(found) > limit,
        **counts,
    )
