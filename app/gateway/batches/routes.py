"""The batches page: what runs, how far it is, what it left; a file starts one."""

import shutil
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from app.accounts.auth import Principal, requires
from app.config import settings
from app.datasets.intake.upload import Upload, receive, scratch
from app.errors import DomainError
from app.gateway.batches import service
from app.gateway.batches.states import OPEN
from app.gateway.batches.tables import Batch
from app.gateway.files import service as files
from app.queue import Db, transaction
from app.web import Parsed, redirect, render, said, sentence

router = APIRouter(prefix="/batches", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "inference")]
Writer = Annotated[Principal, requires("member", "inference")]
Offset = Annotated[int, Query(ge=0, le=10**6)]
LISTED = 50


async def received(request: Request) -> AsyncIterator[Upload]:
    """The form with its file, or what is wrong with it. Declare it after who may send one."""
    upload = Upload(await run_in_threadpool(scratch))
    try:
        try:
            await receive(request, upload)
        except DomainError as error:
            upload.error = error
        yield upload
    finally:
        await run_in_threadpool(shutil.rmtree, upload.directory, ignore_errors=True)


Received = Annotated[Upload, Depends(received, scope="function")]


def listing(request: Request, who: Principal, db: Db, offset: int) -> dict[str, Any]:
    found, total = service.page(db, who.workspace_id, offset=offset, limit=LISTED)
    return {
        "rows": [shown(request, one) for one in found],
        "moving": any(one.status in OPEN for one in found),
        "total": total,
        "offset": offset,
        "limit": LISTED,
    }


def shown(request: Request, batch: Batch) -> dict[str, Any]:
    """A batch with its sentences in the reader's language."""
    return {
        "batch": batch,
        "open": batch.status in OPEN,
        "done": batch.completed + batch.failed,
        "waits": said(request, batch.waits) if batch.waits else "",
        "errors": [one | {"said": said(request, one)} for one in batch.errors],
    }


def page(
    request: Request, who: Principal, db: Db, offset: int = 0, form: Parsed[Any] | None = None
) -> Response:
    return render(
        request,
        "batches/list.html",
        form=form,
        endpoints=service.ENDPOINTS,
        most_bytes=service.MOST_BYTES,
        base_url=settings.url,
        status=422 if form else 200,
        **listing(request, who, db, offset),
    )


@router.get("", name="batches:list")
def list_batches(request: Request, who: Reader, db: Db, offset: Offset = 0) -> Response:
    return page(request, who, db, offset)


@router.get("/rows", name="batches:rows")
def rows(request: Request, who: Reader, db: Db, offset: Offset = 0) -> Response:
    """The table, again while something runs."""
    return render(request, "batches/list.html", block="rows", **listing(request, who, db, offset))


@router.post("", name="batches:create")
def create(request: Request, who: Writer, upload: Received) -> Response:
    """A batch of the file in the form."""
    try:
        if upload.error:
            raise upload.error
        files.check_name(upload.file_name, "batch")
        file = files.add(who, upload.path, file_name=upload.file_name, purpose="batch")
        with transaction() as db:
            wanted = service.Wanted(file.id, upload.fields.get("endpoint", ""))
            service.create(db, who, wanted)
    except DomainError as error:
        field = error.field if error.field in ("file", "endpoint") else ""
        form: Parsed[Any] = Parsed(request, upload.fields, None, {field: sentence(request, error)})
        with transaction() as db:
            return page(request, who, db, form=form)
    return redirect(request, "batches:list")


@router.get("/{batch_id}", name="batches:detail")
def detail(request: Request, batch_id: str, who: Reader, db: Db) -> Response:
    one = shown(request, service.get(db, who.workspace_id, batch_id))
    return render(request, "batches/detail.html", one=one)


@router.get("/{batch_id}/status", name="batches:status")
def status(request: Request, batch_id: str, who: Reader, db: Db) -> Response:
    one = shown(request, service.get(db, who.workspace_id, batch_id))
    return render(request, "batches/detail.html", block="state", one=one)


@router.post("/{batch_id}/cancel", name="batches:cancel")
def cancel(request: Request, batch_id: str, who: Writer, db: Db) -> Response:
    service.cancel(db, who.workspace_id, batch_id)
    return redirect(request, "batches:detail", batch_id=batch_id)


@router.get("/{batch_id}/files/{which}", name="batches:file")
def download(
    batch_id: str, which: Literal["input", "output", "errors"], who: Reader
) -> FileResponse:
    """What it was asked, what was answered, or what was not. Raises NotFound for one not there."""
    with transaction() as db:  # over before the first byte is sent
        batch = service.get(db, who.workspace_id, batch_id)
        ids = {
            "input": batch.input_file_id,
            "output": batch.output_file_id,
            "errors": batch.error_file_id,
        }
        file = files.get(db, who.workspace_id, ids[which] or "")
    return FileResponse(files.path(file), media_type="application/jsonl", filename=file.file_name)
