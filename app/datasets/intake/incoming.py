"""A dataset's files as a request brings them: in a form, or as uploads that came in pieces."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.accounts.auth import Principal
from app.datasets.intake.upload import MAX_FILES, Upload, part, receive, scratch, too_many_files
from app.errors import N_, DomainError, Invalid
from app.queue import transaction
from app.uploads import service as uploads

JSON_BYTES = 2**20  # of the body that names uploads


class Pieces(BaseModel):
    name: str = Field("", description="Of the dataset; the first file's if left out")
    uploads: list[str] = Field(min_length=1, description="Complete uploads, in order")


class Draft(BaseModel):
    """Instead of files: a draft with the rows of a version."""

    source: str | int = Field(alias="from", description="A published version's number or id")


async def gather(request: Request, upload: Upload) -> None:
    """Fill `upload` from a JSON body that names uploads. Raises DomainError."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise Invalid(N_("The form could not be read."), code="form")
    with suppress(ValidationError):
        upload.fields["from"] = str(Draft.model_validate_json(body).source)
    try:
        named = Pieces.model_validate_json(body)
    except ValidationError:
        raise Invalid(
            N_("Say which uploads make the dataset: a name, and a list of their ids."), code="form"
        ) from None
    upload.fields["name"] = named.name
    await run_in_threadpool(link, request.state.who, named.uploads, upload)


def link(who: Principal, upload_ids: list[str], upload: Upload) -> None:
    """The files of complete uploads as the files of `upload`; they stay where they are, too."""
    if len(upload_ids) > MAX_FILES:
        raise too_many_files()
    with transaction() as db:
        ones = uploads.complete(db, who, upload_ids)
    for number, one in enumerate(ones):
        os.link(uploads.place(one.id), upload.directory / part(number))
        upload.files.append({"name": one.file_name, "bytes": one.size})
    first, _, inside = ones[0].file_name.partition("/")
    upload.file_name = f"{first}/" if inside else first
    upload.size = sum(one.size for one in ones)
    uploads.bounded(upload.size)
    upload.pieces = [one.id for one in ones]


async def received(request: Request) -> AsyncIterator[Upload]:
    """The request's files, from a form or from uploads that its JSON names.

    Whatever is still on disk when the route is done, is removed. Declare it after `requires`, so
    that nobody who may not upload is read from. Uploads in pieces stay when only something else
    was wrong, so that nobody sends gigabytes twice for a name that is too long.
    """
    upload = Upload(await run_in_threadpool(scratch))
    try:
        try:
            if request.headers.get("content-type", "").startswith("application/json"):
                await gather(request, upload)
            else:
                await receive(request, upload)
        except DomainError as error:
            upload.error = error
        except ClientDisconnect:
            upload.error = Invalid(N_("The upload was cut off."), code="file.cut")
        try:
            yield upload
        except DomainError as error:
            if error.field != "file":
                upload.pieces = []
            raise
        except BaseException:
            upload.pieces = []
            raise
        finally:
            await run_in_threadpool(uploads.used, upload.pieces)
    finally:
        with suppress(OSError):
            await run_in_threadpool(shutil.rmtree, upload.directory, ignore_errors=True)


Received = Annotated[Upload, Depends(received, scope="function")]
