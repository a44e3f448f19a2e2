"""A piece of an upload: the body of one request, appended to what is there."""

import asyncio
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.accounts.auth import Principal
from app.db import now
from app.errors import N_, Conflict, DomainError, Invalid, disk_full
from app.queue import transaction
from app.uploads.service import BUFFER, find, offset, place
from app.uploads.tables import Upload

SILENCE = 30.0  # seconds without a byte, after which a sender is gone


@dataclass
class Piece:
    """What a request added: where the upload now stands, and why it stopped there, if early."""

    upload: Upload
    offset: int
    error: DomainError | None = None


async def appended(request: Request, upload_id: str) -> Piece:
    """Add the request's body to an upload, from the offset that its Upload-Offset says.

    Declare it after `requires`. What has arrived stays, however the request ends.
    """
    upload = await run_in_threadpool(found, request.state.who, upload_id)
    file = await run_in_threadpool(claimed, upload.id)
    if file is None:
        busy = Conflict(N_("Another connection is sending this file."), code="upload.busy")
        return Piece(upload, offset(upload.id), busy)
    error: DomainError | None = None
    try:
        await pour(request, file, upload.size)
    except DomainError as why:
        error = why
    except (ClientDisconnect, TimeoutError):
        error = Invalid(N_("The upload was cut off."), code="file.cut")
    except OSError as why:
        if why.errno != errno.ENOSPC:
            raise
        error = disk_full()
    finally:
        at = os.fstat(file).st_size
        os.close(file)
    await run_in_threadpool(touched, upload.id, at)
    return Piece(upload, at, error)


def found(who: Principal, upload_id: str) -> Upload:
    with transaction() as db:
        return find(db, who, upload_id)


def claimed(upload_id: str) -> int | None:
    """The file to append to, locked, as a descriptor. None if somebody else has it."""
    path = place(upload_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


async def pour(request: Request, file: int, size: int) -> None:
    """The body into `file`, at most up to `size` bytes. Memory holds `BUFFER` bytes of it.

    Raises Conflict for another offset than the file's, Invalid for more bytes than announced.
    """
    at = os.fstat(file).st_size
    stated, length = (request.headers.get(name, "") for name in ("upload-offset", "content-length"))
    if not (stated.isascii() and stated.isdecimal()):
        raise Invalid(N_("Say in Upload-Offset where the piece begins."), code="upload.offset")
    if stated.lstrip("0") != str(at).lstrip("0"):
        raise Conflict(N_("The next piece begins at byte %(at)s."), code="upload.offset", at=at)
    if length and int(length) > size - at:
        raise too_long(size)
    loop = asyncio.get_running_loop()
    pending = bytearray()
    try:
        async with asyncio.timeout(SILENCE) as patience:
            async for chunk in request.stream():
                pending += chunk
                at += len(chunk)
                if at > size:
                    del pending[len(pending) - (at - size) :]
                    raise too_long(size)
                if len(pending) >= BUFFER:
                    full, pending = pending, bytearray()  # what fails half way is not tried again
                    await run_in_threadpool(write, file, full)
                patience.reschedule(loop.time() + SILENCE)
    finally:
        write(file, pending)


def write(file: int, data: bytearray) -> None:
    """All of it: the system may take a part at a time."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(file, view[done:])


def too_long(size: int) -> Invalid:
    return Invalid(
        N_("More than the %(size)s bytes that were announced."), code="upload.too_long", size=size
    )


def touched(upload_id: str, received: int) -> None:
    with transaction() as db:
        if (one := db.get(Upload, upload_id)) is not None:
            one.received, one.touched_at = received, now()


Appended = Annotated[Piece, Depends(appended)]
