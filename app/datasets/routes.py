"""The dataset list, the upload page, and a dataset's page with its tabs."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.datasets import browse, schemas, service, states, work
from app.datasets.tables import DatasetVersion
from app.datasets.upload import Received
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


@router.get("/{dataset_id}", name="datasets:detail")
def detail(
    request: Request,
    dataset_id: str,
    who: Reader,
    version: str = "",
    q: Words = "",
    offset: Offset = 0,
    limit: Limit = 20,
    row: int | None = None,
    view: str = "chat",
) -> Response:
    found = find(who, dataset_id, version)
    page = browse.page(found, offset=offset, limit=limit, q=q)
    number = row if row is not None else page.rows[0][0] if page.rows else None
    return show(
        request,
        "datasets/rows.html",
        found,
        page=page,
        summary=browse.summary,
        asked={"version": version, "q": q, "limit": limit, "view": view},
        offset=offset,
        **pane(found, number, view),
    )


@router.get("/{dataset_id}/rows/{number}", name="datasets:row")
def row(
    request: Request,
    dataset_id: str,
    number: int,
    who: Reader,
    version: str = "",
    view: str = "chat",
) -> Response:
    found = find(who, dataset_id, version)
    return render(
        request,
        "datasets/rows.html",
        block="row",
        version=found,
        asked={"version": version, "view": view},
        **pane(found, number, view),
    )


def pane(version: DatasetVersion, number: int | None, view: str) -> dict[str, Any]:
    """What the right side shows: one row, as a conversation or as JSON."""
    if number is None:
        return {"number": None, "row": None, "pretty": ""}
    found = browse.row(version, number)
    return {
        "number": number,
        "row": found,
        "pretty": browse.pretty(found) if view == "json" else "",
    }


@router.get("/{dataset_id}/validation", name="datasets:validation")
def validation(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> Response:
    found = service.version(db, who.workspace_id, dataset_id, version)
    issues = service.issues(db, found.id, offset=offset, limit=limit)
    return show(
        request,
        "datasets/validation.html",
        found,
        problems=[schemas.problem(request, issue) for issue in issues],
        asked={"version": version},
        offset=offset,
        limit=limit,
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
        moving=version.status in states.MOVING,
        **context,
    )
