"""Drafts as JSON: rows edited, added, deleted; undo, history, replace; comparing versions."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from app.datasets import service
from app.datasets.api import Limit, Offset, Reader, Writer, find
from app.datasets.drafts import (
    acts,
    comparing,
    edits,
    finding,
    overlay,
    redraft,
    replacing,
    rewriting,
    schemas,
)
from app.datasets.drafts.schemas import (
    Act,
    Change,
    Comparison,
    DeleteBody,
    Edited,
    EditList,
    History,
    PreviewOut,
    ReplaceBody,
    RestoreBody,
    RowBody,
    RowsBody,
    VersionBody,
    act_out,
    edit_out,
    edited,
    row_out,
)
from app.queue import Db, transaction

router = APIRouter(prefix="/api/v1/datasets/{dataset_id}", tags=["drafts"])


# -- rows --------------------------------------------------------------------------------


@router.get("/rows/{row}")
def row(dataset_id: str, row: str, who: Reader, version: str = "") -> Response:
    """One row by its id or number, with the `hash` that a change of it needs."""
    found = finding.named(overlay.of(find(who, dataset_id, version)), row)
    return Response(orjson.dumps(row_out(found)), media_type="application/json")


@router.post("/rows", status_code=201)
def add(request: Request, dataset_id: str, who: Writer, body: RowsBody) -> Edited:
    """Add rows to a draft, at the end or after a row."""
    done, entries = edits.add(who, dataset_id, body.version, body.rows, body.after)
    return edited(request, done, who.name, entries)


@router.patch("/rows/{row}")
def edit(request: Request, dataset_id: str, row: str, who: Writer, body: RowBody) -> Edited:
    """Give a row of a draft another content. 409 (row_changed) if somebody else was quicker."""
    done, entry = edits.edit(who, dataset_id, body.version, row, body.row, body.hash)
    return edited(request, done, who.name, [entry])


@router.delete("/rows/{row}")
def delete(
    request: Request,
    dataset_id: str,
    row: str,
    who: Writer,
    version: str = "",
    seen: Annotated[str, Query(alias="hash")] = "",
) -> Edited:
    """Delete a row of a draft; with `hash`, only if it is still what was read."""
    done = edits.delete(who, dataset_id, version, [row], seen or None)
    return edited(request, done, who.name)


@router.post("/rows/delete")
def delete_many(request: Request, dataset_id: str, who: Writer, body: DeleteBody) -> Act:
    """Delete rows by id, or all that a filter finds; many are deleted in the background."""
    if body.filter:
        filters = body.filter.model_dump(exclude_defaults=True)
        act = rewriting.delete_found(who, dataset_id, body.version, filters)
    else:
        act = edits.delete(who, dataset_id, body.version, body.ids).act
    return act_out(request, act, who.name)


@router.post("/rows/restore")
def restore(request: Request, dataset_id: str, who: Writer, body: RestoreBody) -> Edited:
    """Bring back deleted rows, where they stood."""
    done = edits.restore(who, dataset_id, body.version, body.ids)
    return edited(request, done, who.name)


# -- undo, history -----------------------------------------------------------------------


@router.post("/undo")
def undo(request: Request, dataset_id: str, who: Writer, body: VersionBody | None = None) -> Act:
    """Take back the newest change of a draft."""
    return act_out(request, acts.undo(who, dataset_id, body.version if body else ""), None)


@router.post("/redo")
def redo(request: Request, dataset_id: str, who: Writer, body: VersionBody | None = None) -> Act:
    """Do again what was undone last."""
    return act_out(request, acts.redo(who, dataset_id, body.version if body else ""), None)


@router.post("/stop", status_code=204)
def stop(dataset_id: str, who: Writer, body: VersionBody | None = None) -> None:
    """Stop a large change that is under way; nothing of it stays."""
    rewriting.stop(who, dataset_id, body.version if body else "")


@router.get("/history")
def history(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    row: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> History:
    """Who changed what, the newest first; of one row, if `row` is its id."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    if row:
        past = [(act, name) for _, act, name in acts.trail(db, found.id, row, limit + 1)]
    else:
        past = acts.history(db, found.id, offset=offset, limit=limit + 1)
    data = [act_out(request, act, name) for act, name in past[:limit]]
    return History(data=data, has_more=len(past) > limit)


@router.get("/history/{act}")
def changes(
    dataset_id: str,
    act: str,
    who: Reader,
    db: Db,
    version: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> EditList:
    """The rows that a change changed, before and after; none for one on very many rows."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    listed = acts.edits_of(db, acts.get(db, found.id, act).id, offset=offset, limit=limit + 1)
    return EditList(data=[edit_out(one) for one in listed[:limit]], has_more=len(listed) > limit)


# -- replace -----------------------------------------------------------------------------


@router.post("/replace")
def replace(request: Request, dataset_id: str, who: Writer, body: ReplaceBody) -> PreviewOut | Act:
    """Find and replace: what would change, or, with `apply`, the change."""
    if body.apply:
        act = rewriting.replace(who, dataset_id, body.version, body.wanted())
        return act_out(request, act, who.name)
    with transaction() as db:
        found = acts.open_draft(db, who, dataset_id, body.version)
    return schemas.preview_out(replacing.preview(found, body.wanted(), offset=body.offset))


# -- versions ----------------------------------------------------------------------------


@router.delete("/versions/{version}", status_code=204)
def discard(dataset_id: str, version: str, who: Writer) -> None:
    """Throw a draft away, with its edits."""
    redraft.discard(who, dataset_id, version)


@router.get("/compare")
def compare(
    dataset_id: str,
    who: Reader,
    old: Annotated[str, Query(alias="from", description="A version's number or id")] = "",
    new: Annotated[str, Query(alias="to")] = "",
    change: Change = "",
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Comparison:
    """Two versions row by row; without `from`, the newest and the one before it.

    While `state` is running, ask again.
    """
    left, right = comparing.sides(who, dataset_id, old, new)
    one = comparing.compare(left, right)
    return schemas.comparison(one, left, right, change=change, offset=offset, limit=limit)
