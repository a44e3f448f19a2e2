"""The dataset list, the upload page, and a dataset's page with its tabs."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.datasets import schemas, service, states, trash, work
from app.datasets.drafts import overlay, panes
from app.datasets.intake.incoming import Received
from app.datasets.rows import browse, facts, search, warnings
from app.datasets.rows.languages import LANGUAGES
from app.datasets.tables import DatasetVersion
from app.errors import DomainError
from app.queue import Db, transaction
from app.web import Parsed, redirect, render

router = APIRouter(prefix="/datasets", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]
Offset = Annotated[int, Query(ge=0, le=10**12)]
Limit = Annotated[int, Query(ge=1, le=200)]
Words = Annotated[str, Query(max_length=500)]


# -- the list ----------------------------------------------------------------------------


@router.get("", name="datasets:list")
def list_datasets(
    request: Request,
    who: Reader,
    db: Db,
    q: Words = "",
    status: str = "",
    sort: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> Response:
    context = listing(db, who, q=q, status=status, sort=sort, offset=offset, limit=limit)
    return render(request, "datasets/list.html", **context)


@router.get("/table", name="datasets:table")
def table(
    request: Request,
    who: Reader,
    db: Db,
    q: Words = "",
    status: str = "",
    sort: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> Response:
    context = listing(db, who, q=q, status=status, sort=sort, offset=offset, limit=limit)
    return render(request, "datasets/list.html", block="table", **context)


def listing(db: Db, who: Principal, **asked: Any) -> dict[str, Any]:
    found, total = service.list_datasets(db, who.workspace_id, **asked)
    return {
        "found": found,
        "total": total,
        "states": states.STATES,
        "moving": any(one.status in states.MOVING for one in found),
        "progress": schemas.progress,
        "asked": asked,
    }


# -- uploading ---------------------------------------------------------------------------


@router.get("/new", name="datasets:new", dependencies=[requires("member", "datasets:write")])
def new(request: Request) -> Response:
    return render(request, "datasets/new.html", form=None)


@router.post("", name="datasets:create")
def create(request: Request, who: Writer, upload: Received) -> Response:
    try:
        added = work.take(who, upload)
    except DomainError as error:
        form: Parsed[Any] = Parsed(request, upload.fields)
        form.refuse(error)
        return render(request, "datasets/new.html", status=error.status, form=form)
    return redirect(request, "datasets:detail", dataset_id=added.dataset_id)


@router.post("/{dataset_id}/versions", name="datasets:add_version")
def add_version(request: Request, dataset_id: str, who: Writer, upload: Received) -> Response:
    try:
        work.take(who, upload, dataset_id)
    except DomainError as error:
        if error.status in (403, 404):
            raise
        form: Parsed[Any] = Parsed(request, upload.fields)
        form.refuse(error)
        return versions_page(request, who, dataset_id, form, status=error.status)
    return redirect(request, "datasets:detail", dataset_id=dataset_id)


# -- a dataset ---------------------------------------------------------------------------


def filters_of(
    q: Words = "",
    role: Words = "",
    min_length: Words = "",
    max_length: Words = "",
    language: Words = "",
    flag: Words = "",
) -> dict[str, Any]:
    """The filters of the list that say something."""
    return search.given(locals())


@router.get("/deleted", name="datasets:trash")
def deleted(request: Request, who: Reader, db: Db) -> Response:
    found = trash.deleted(db, who.workspace_id)
    return render(request, "datasets/trash.html", found=found, days=trash.grace(db).days)


@router.post("/{dataset_id}/undelete", name="datasets:undelete")
def restore(request: Request, dataset_id: str, who: Writer, db: Db) -> Response:
    back = trash.restore(db, who, dataset_id)
    return redirect(request, "datasets:detail", dataset_id=back.id)


@router.get("/{dataset_id}", name="datasets:detail")
def detail(
    request: Request,
    dataset_id: str,
    who: Reader,
    filters: Annotated[dict[str, Any], Depends(filters_of)],
    version: str = "",
    offset: Offset = 0,
    limit: Limit = 20,
    row: int | None = None,
    jump: Annotated[str, Query(max_length=20)] = "",
    view: str = "chat",
) -> Response:
    """The rows that pass the filters, and one of them. `jump` is a row's number as it is shown."""
    with transaction() as db:
        found = service.version(db, who.workspace_id, dataset_id, version)
        standing = panes.standing(db, who, found)
    if jump.isascii() and jump.isdecimal():
        row = min(max(int(jump), 1), max(found.rows, 1)) - 1 if found.rows else None
        offset = (row or 0) if filters else (row or 0) // limit * limit
    over = overlay.of(found)
    page = overlay.page(found, offset=offset, limit=limit, **filters)
    number = panes.first(page, found, row)
    asked = {"version": version, "q": "", **filters, "limit": limit}
    return show(
        request,
        "datasets/rows.html",
        found,
        page=page,
        summary=browse.summary,
        asked={**asked, "view": view},
        query=f"?{urlencode(asked)}",
        filters=filters,
        roles=tuple(facts.ROLES),
        flags=warnings.FLAGS if over.ids else search.ALL_FLAGS,
        languages=LANGUAGES,
        offset=offset,
        marks=over.mark,
        **panes.desk(request, found, standing),
        **panes.pane(found, number, view),
    )


@router.get("/{dataset_id}/versions", name="datasets:versions")
def versions(request: Request, dataset_id: str, who: Reader) -> Response:
    return versions_page(request, who, dataset_id, None)


def versions_page(
    request: Request, who: Principal, dataset_id: str, form: Parsed[Any] | None, status: int = 200
) -> Response:
    with transaction() as db:
        found = service.version(db, who.workspace_id, dataset_id)
        listed = service.versions(db, dataset_id)
        events = service.events(db, [one.id for one in listed])
    numbers = {one.id: one.number for one in listed}
    return show(
        request,
        "datasets/versions.html",
        found,
        status=status,
        versions=listed,
        events=[(numbers[event.version_id], event) for event in events],
        form=form,
        asked={"version": ""},
    )


@router.get("/{dataset_id}/using", name="datasets:using")
def using(request: Request, dataset_id: str, who: Reader, db: Db, version: str = "") -> Response:
    found = service.version(db, who.workspace_id, dataset_id, version)
    return show(request, "datasets/using.html", found, asked={"version": version})


@router.get("/{dataset_id}/status", name="datasets:status")
def status(request: Request, dataset_id: str, who: Reader, db: Db, version: str = "") -> Response:
    """The moving part of the page; once nothing moves any more, the page is loaded anew."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    response = show(
        request, "datasets/detail.html", found, block="status", asked={"version": version}
    )
    if found.status not in states.MOVING:
        response.headers["HX-Refresh"] = "true"
    return response


@router.post("/{dataset_id}/publish", name="datasets:publish")
def publish(
    request: Request,
    dataset_id: str,
    who: Writer,
    version: Annotated[str, Form()] = "",
    skip_invalid: Annotated[bool, Form()] = False,
) -> Response:
    work.publish(who, dataset_id, which=version, skip_invalid=skip_invalid)
    return redirect(request, "datasets:detail", dataset_id=dataset_id)


@router.post("/{dataset_id}/delete", name="datasets:delete")
def delete(request: Request, dataset_id: str, who: Writer, db: Db) -> Response:
    service.remove(db, who, dataset_id)
    return redirect(request, "datasets:list")


def find(who: Principal, dataset_id: str, version: str) -> DatasetVersion:
    """For what reads rows: no session stays open meanwhile."""
    with transaction() as db:
        return service.version(db, who.workspace_id, dataset_id, version)


def show(
    request: Request,
    template: str,
    version: DatasetVersion,
    *,
    block: str | None = None,
    status: int = 200,
    **context: Any,
) -> Response:
    """A tab of the dataset's page."""
    return render(
        request,
        template,
        block=block,
        status=status,
        version=version,
        dataset=version.dataset,
        failure=schemas.failure(request, version),
        progress=schemas.progress(version),
        transfer=schemas.transfer(request, version),
        moving=version.status in states.MOVING,
        **context,
    )
