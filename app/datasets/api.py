"""Datasets as JSON: upload, look, publish, download, delete."""

from typing import Annotated
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from app import paging
from app.accounts.auth import Principal, requires
from app.datasets import schemas, service, trash, work
from app.datasets.drafts import overlay, redraft
from app.datasets.export import service as export
from app.datasets.intake.incoming import Pieces, Received
from app.datasets.rows import search
from app.datasets.tables import DatasetVersion
from app.paging import After
from app.queue import Db, transaction

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]
Offset = Annotated[int, Query(ge=0, le=10**12)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Words = Annotated[str, Query(max_length=500)]

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "name": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            },
            "application/json": {"schema": Pieces.model_json_schema()},
        },
    }
}


@router.post("", status_code=201, response_model=schemas.DatasetWithErrors, openapi_extra=FORM)
def create(request: Request, who: Writer, upload: Received) -> schemas.DatasetWithErrors:
    """Upload files of any format and container that docs/files.md names, or name `uploads` that were
    sent in pieces. Up to 32 MiB are validated at once; larger ones are `validating` meanwhile.
    """
    return report(request, work.take(who, upload))


@router.post(
    "/{dataset_id}/versions",
    status_code=201,
    response_model=schemas.DatasetWithErrors,
    openapi_extra=FORM,
)
def add_version(
    request: Request, dataset_id: str, who: Writer, upload: Received
) -> schemas.DatasetWithErrors:
    """Upload a file as the next version of a dataset; with `{"from": version}`, a new draft."""
    if source := upload.fields.get("from"):
        return report(request, redraft.begin(who, dataset_id, source))
    return report(request, work.take(who, upload, dataset_id))


@router.get("")
def index(
    request: Request,
    who: Reader,
    db: Db,
    q: Words = "",
    status: Words = "",
    after: After = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> schemas.DatasetList:
    """The newest version of each dataset: the workspace's own first, then the samples."""
    found, _ = service.list_datasets(
        db, who.workspace_id, q=q, status=status, after=after, offset=offset, limit=limit + 1
    )
    data = [schemas.dataset_out(request, version) for version in found[:limit]]
    return schemas.DatasetList(data=data, has_more=len(found) > limit)


@router.get("/deleted", name="api:datasets:deleted")
def list_deleted(
    who: Reader, db: Db, after: After = "", limit: Annotated[int, Query(ge=1, le=100)] = 100
) -> schemas.DeletedDatasets:
    """Deleted datasets that can be restored, the last deleted first; `until` says when their rows go."""
    some, more = paging.page(trash.deleted(db, who.workspace_id), after, limit)
    data = [schemas.DeletedDataset.model_validate(one) for one in some]
    return schemas.DeletedDatasets(data=data, has_more=more)


@router.post("/{dataset_id}/restore", name="api:datasets:restore")
def restore(request: Request, dataset_id: str, who: Writer, db: Db) -> schemas.DatasetOut:
    """Bring a deleted dataset back, with all its versions."""
    trash.restore(db, who, dataset_id)
    return schemas.dataset_out(request, service.version(db, who.workspace_id, dataset_id))


@router.get("/{dataset_id}")
def show(
    request: Request, dataset_id: str, who: Reader, db: Db, version: str = ""
) -> schemas.DatasetWithErrors:
    """One version, by default the newest, and what is wrong with its rows."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    issues = service.issues(db, found.id, limit=schemas.MAX_ERRORS)
    return schemas.with_errors(request, found, issues)


@router.get("/{dataset_id}/rows", response_model=schemas.RowList)
def rows(
    dataset_id: str,
    who: Reader,
    version: str = "",
    offset: Offset = 0,
    limit: Limit = 50,
    row: Annotated[int | None, Query(ge=0, le=10**12)] = None,
    q: Words = "",
    role: Words = "",
    min_length: int | None = None,
    max_length: int | None = None,
    language: Words = "",
    flag: Words = "",
) -> Response:
    """Rows from number `offset` (or `row`) on: those that contain `q` and pass the filters.

    Lengths are in characters. `role`: system, user, assistant, tool. `language`: zh, en, mixed,
    other. `flag`: duplicate, personal, control, mojibake, empty, odd.
    """
    found = find(who, dataset_id, version)
    filters = search.given(
        {
            "q": q, "role": role, "language": language, "flag": flag,
            "min_length": min_length, "max_length": max_length,
        }
    )  # fmt: skip
    page = overlay.page(found, offset=offset if row is None else row, limit=limit, **filters)
    body = orjson.dumps(schemas.rows_out(found, page).model_dump())
    return Response(body, media_type="application/json")


@router.post("/{dataset_id}/publish")
def publish(
    request: Request,
    dataset_id: str,
    who: Writer,
    body: schemas.Publish | None = None,
    skip_invalid: bool = False,
) -> schemas.DatasetWithErrors:
    """Freeze a draft, so that jobs can train on it.

    While it has rows with errors, `skip_invalid` must say that they are to be left out: in the
    body, or in the address.
    """
    body = body or schemas.Publish()
    skip = skip_invalid or body.skip_invalid
    return report(request, work.publish(who, dataset_id, which=body.version, skip_invalid=skip))


@router.get("/{dataset_id}/download", name="api:datasets:download")
def download(dataset_id: str, who: Reader, version: str = "") -> Response:
    """The rows as `messages` JSONL, as an upload takes them."""
    found = find(who, dataset_id, version)
    export.taken(found, "messages")
    return attachment(found)


@router.delete("/{dataset_id}", status_code=204)
def delete(dataset_id: str, who: Writer, db: Db) -> None:
    """Delete all versions. Refused while a job needs one.

    Until the platform's days for that are over (7 unless set otherwise) it can be restored.
    """
    service.remove(db, who, dataset_id)


def find(who: Principal, dataset_id: str, version: str) -> DatasetVersion:
    with transaction() as db:
        return service.version(db, who.workspace_id, dataset_id, version)


def report(request: Request, version: DatasetVersion) -> schemas.DatasetWithErrors:
    with transaction() as db:
        issues = service.issues(db, version.id, limit=schemas.MAX_ERRORS)
    return schemas.with_errors(request, version, issues)


def attachment(version: DatasetVersion) -> StreamingResponse:
    name = f"{version.dataset.name}-v{version.number}.jsonl"
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in name[:-6])
    disposition = f"attachment; filename=\"{plain}.jsonl\"; filename*=UTF-8''{quote(name, safe='')}"
    return StreamingResponse(
        overlay.download(version),
        media_type="application/jsonl",
        headers={"content-disposition": disposition},
    )
