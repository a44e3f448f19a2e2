"""A multipart form as it comes from a client: files on disk, fields as text."""

import shutil
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from app.datasets.intake.upload import Upload, receive, scratch

MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"type": "object"}}},
    }
}


async def sent(request: Request) -> AsyncIterator[Upload]:
    """Its files are gone when the route is done. Declare it after `keyed`, so that nobody who may
    not upload is read from. Raises Invalid for a body that is no whole form.
    """
    upload = Upload(await run_in_threadpool(scratch))
    try:
        await receive(request, upload)
        yield upload
    finally:
        await run_in_threadpool(shutil.rmtree, upload.directory, ignore_errors=True)


Sent = Annotated[Upload, Depends(sent, scope="function")]
