"""The pages of a draft: a row, its form, deleted rows, undo, history."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request, Response
from starlette.datastructures import FormData

from app.accounts.auth import Principal
from app.datasets.drafts import acts, edits, finding, overlay, panes, rewriting, row_form, schemas
from app.datasets.routes import Offset, Reader, Writer, find, show
from app.datasets.rows import browse, search
from app.datasets.tables import DatasetVersion
from app.errors import DomainError, NotFound
from app.queue import transaction
from app.web import is_htmx, redirect, render, sentence

router = APIRouter(prefix="/datasets/{dataset_id}", include_in_schema=False)
Which = Annotated[str, Form()]
PAGE = 20


async def form_fields(request: Request) -> FormData:
    return await request.form(max_files=0, max_fields=20_000)


Fields = Annotated[FormData, Depends(form_fields)]


# -- one row -----------------------------------------------------------------------------


@router.get("/row/{row_id}", name="datasets:permalink")
def permalink(
    request: Request, dataset_id: str, row_id: str, who: Reader, version: str = ""
) -> Response:
    """To the row with this id, wherever it now stands."""
    found = find(who, dataset_id, version)
    entry = finding.named(overlay.of(found), row_id)
    return redirect(request, address(request, found, entry.number))


def address(request: Request, version: DatasetVersion, number: int, view: str = "") -> str:
    """Of the page of rows, with this one open."""
    path = request.app.url_path_for("datasets:detail", dataset_id=version.dataset_id)
    asked = {"version": version.number, "offset": number // PAGE * PAGE, "row": number}
    return f"{path}?{urlencode(asked | ({'view': view} if view else {}))}"


@router.get("/rows/{number}", name="datasets:row")
def row(
    request: Request,
    dataset_id: str,
    number: int,
    who: Reader,
    version: str = "",
    view: str = "chat",
) -> Response:
    """The pane beside the list; for a browser that comes here by itself, the page with it."""
    found = find(who, dataset_id, version)
    shown = panes.pane(found, number, view)
    if not is_htmx(request):
        return redirect(request, address(request, found, number, view))
    return render(
        request,
        "datasets/row.html",
        version=found,
        asked={"version": version},
        **panes.desk(request, found),
        **shown,
    )


@router.get("/rows/{number}/edit", name="datasets:edit_row")
def edit_row(
    request: Request,
    dataset_id: str,
    number: int,
    who: Writer,
    version: str = "",
    view: str = "turns",
) -> Response:
    found = open_draft(who, dataset_id, version)
    entry = overlay.entry(overlay.of(found), number)
    form = row_form.of_row(found.kind, entry.row, view, entry.hash)
    return form_page(request, found, form, entry.row["id"], number)


@router.post("/rows/{number}/edit", name="datasets:save_row")
def save_row(
    request: Request, dataset_id: str, number: int, who: Writer, fields: Fields
) -> Response:
    version, row_id = str(fields.get("version", "")), str(fields.get("id", ""))
    found = open_draft(who, dataset_id, version)
    form = row_form.of_form(found.kind, fields)
    if what := fields.get("do"):
        return form_page(request, found, row_form.moved(form, str(what)), row_id, number)
    try:
        try:
            old = finding.named(overlay.of(found), row_id).row
        except NotFound:
            old = None  # deleted meanwhile: the edit says so
        made = row_form.to_row(form, old)
        done, entry = edits.edit(who, dataset_id, found.id, row_id, made, form.seen)
    except DomainError as error:
        return refused(request, found, form, error, row_id, number)
    return to_row(request, done.version, entry.number)


@router.get("/add", name="datasets:new_row")
def new_row(
    request: Request,
    dataset_id: str,
    who: Writer,
    version: str = "",
    after: str = "",
    view: str = "turns",
) -> Response:
    found = open_draft(who, dataset_id, version)
    return form_page(request, found, row_form.empty(found.kind, view), "", None, after=after)


@router.post("/add", name="datasets:add_row")
def add_row(request: Request, dataset_id: str, who: Writer, fields: Fields) -> Response:
    found = open_draft(who, dataset_id, str(fields.get("version", "")))
    after = str(fields.get("after", ""))
    form = row_form.of_form(found.kind, fields)
    if what := fields.get("do"):
        return form_page(request, found, row_form.moved(form, str(what)), "", None, after=after)
    try:
        made = row_form.to_row(form)
        done, entries = edits.add(who, dataset_id, found.id, [made], after)
    except DomainError as error:
        return refused(request, found, form, error, "", None, after=after)
    return to_row(request, done.version, entries[0].number)


def refused(
    request: Request,
    version: DatasetVersion,
    form: row_form.Form,
    error: DomainError,
    row_id: str,
    number: int | None,
    *,
    after: str = "",
) -> Response:
    """The form as it was typed, the message beside its field; and the row as it now is."""
    if error.status in (403, 404):
        raise error
    form.errors[row_form.place(form, error.field or "")] = sentence(request, error)
    now = None
    if error.code == "row_changed":
        try:
            now = finding.named(overlay.of(find_again(version)), row_id)
            form.seen = now.hash
        except NotFound:
            now = None
    return form_page(
        request, version, form, row_id, number, after=after, status=error.status, now=now
    )


def find_again(version: DatasetVersion) -> DatasetVersion:
    with transaction() as db:
        return db.get_one(DatasetVersion, version.id)


def form_page(
    request: Request,
    version: DatasetVersion,
    form: row_form.Form,
    row_id: str,
    number: int | None,
    *,
    after: str = "",
    status: int = 200,
    now: overlay.Entry | None = None,
) -> Response:
    return show(
        request,
        "datasets/edit.html",
        version,
        status=status,
        asked={"version": str(version.number)},
        form=form,
        row_id=row_id,
        number=number,
        after=after,
        now=now and now.row,
        tell=panes.TELL,
    )


def open_draft(who: Principal, dataset_id: str, version: str) -> DatasetVersion:
    """Raises Conflict with what can be done instead, if it is no draft."""
    with transaction() as db:
        return acts.open_draft(db, who, dataset_id, version)


def to_row(request: Request, version: DatasetVersion, number: int) -> Response:
    return redirect(request, address(request, version, number))


def to_list(request: Request, dataset_id: str, version: str, offset: int = 0) -> Response:
    path = request.app.url_path_for("datasets:detail", dataset_id=dataset_id)
    return redirect(request, f"{path}?version={version}&offset={offset}")


# -- deleting, restoring, undo -----------------------------------------------------------


@router.post("/rows/delete", name="datasets:delete_rows")
def delete_rows(request: Request, dataset_id: str, who: Writer, fields: Fields) -> Response:
    """Those that are ticked, or, with `found`, all that the search finds."""
    version = str(fields.get("version", ""))
    if fields.get("found"):
        filters = search.given({name: fields.get(name) for name in fields})
        rewriting.delete_found(who, dataset_id, version, filters)
        return to_list(request, dataset_id, version)
    chosen = [str(one) for one in fields.getlist("id")]
    seen = str(fields.get("hash", "")) if len(chosen) == 1 else ""
    edits.delete(who, dataset_id, version, chosen, seen or None)
    offset = str(fields.get("offset", ""))
    return to_list(request, dataset_id, version, int(offset) if offset.isdecimal() else 0)


@router.get("/deleted", name="datasets:deleted")
def deleted(
    request: Request, dataset_id: str, who: Reader, version: str = "", offset: Offset = 0
) -> Response:
    found = find(who, dataset_id, version)
    return show(
        request,
        "datasets/deleted.html",
        found,
        rows=edits.deleted(found, offset=offset, limit=PAGE),
        summary=browse.summary,
        tell=panes.TELL,
        offset=offset,
        limit=PAGE,
        asked={"version": version},
        **panes.desk(request, found),
    )


@router.post("/restore", name="datasets:restore")
def restore(request: Request, dataset_id: str, who: Writer, fields: Fields) -> Response:
    version = str(fields.get("version", ""))
    edits.restore(who, dataset_id, version, [str(one) for one in fields.getlist("id")])
    path = request.app.url_path_for("datasets:deleted", dataset_id=dataset_id)
    return redirect(request, f"{path}?version={version}")


@router.post("/undo", name="datasets:undo")
def undo(request: Request, dataset_id: str, who: Writer, version: Which = "") -> Response:
    acts.undo(who, dataset_id, version)
    return to_list(request, dataset_id, version)


@router.post("/redo", name="datasets:redo")
def redo(request: Request, dataset_id: str, who: Writer, version: Which = "") -> Response:
    acts.redo(who, dataset_id, version)
    return to_list(request, dataset_id, version)


@router.post("/stop", name="datasets:stop")
def stop(request: Request, dataset_id: str, who: Writer, version: Which = "") -> Response:
    rewriting.stop(who, dataset_id, version)
    return to_list(request, dataset_id, version)


@router.get("/bar", name="datasets:bar")
def bar(request: Request, dataset_id: str, who: Reader, version: str = "") -> Response:
    """What may be done with a draft; once nothing is under way any more, the page is loaded anew."""
    found = find(who, dataset_id, version)
    desk = panes.desk(request, found)
    response = render(request, "datasets/_draft_bar.html", version=found, **desk)
    if not desk["running"]:
        response.headers["HX-Refresh"] = "true"
    return response


@router.get("/history", name="datasets:history")
def history(
    request: Request,
    dataset_id: str,
    who: Reader,
    version: str = "",
    row: str = "",
    act: str = "",
    offset: Offset = 0,
) -> Response:
    """The changes of a draft; of one row, or of one change its rows, before and after."""
    found = find(who, dataset_id, version)
    with transaction() as db:
        past = acts.history(db, found.id, offset=offset, limit=PAGE + 1)
        listed = []
        if act:
            listed = acts.edits_of(db, acts.get(db, found.id, act).id, offset=offset, limit=PAGE)
        trail = acts.trail(db, found.id, row) if row else []
    shown = [*((edit, None, None) for edit in listed), *trail]
    told = [(schemas.edit_out(edit), one, name) for edit, one, name in shown]
    return show(
        request,
        "datasets/history.html",
        found,
        past=[] if act or row else past[:PAGE],
        has_more=len(past) > PAGE,
        told=[
            (edit, one, name, schemas.pairs(edit.before, edit.after)) for edit, one, name in told
        ],
        asked={"version": version, "row": row, "act": act},
        offset=offset,
        limit=PAGE,
        **panes.desk(request, found),
    )
