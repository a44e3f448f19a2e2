"""Uploads in pieces: a file is announced, sent in as many requests as it takes, then used.

Its bytes so far lie in `settings.uploads`, and their number is how far it has come: nothing is
synced while it arrives, so what a crash of the machine takes is sent again. Whoever was cut off
asks for the offset and goes on from there.
"""

import asyncio
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.accounts.auth import Principal
from app.config import settings
from app.datasets.intake.upload import (
    BODY,
    BUFFER,
    MAX_FILES,
    UNFINISHED,
    Upload,
    disk_full,
    part,
    placed_name,
    receive,
    scratch,
    too_many_files,
)
from app.datasets.tables import DatasetUpload
from app.db import now
from app.errors import N_, Conflict, DomainError, Invalid, NotFound, TooLarge
from app.queue import transaction

MOST = 200  # uploads of one workspace that are not used yet
SILENCE = 30.0  # seconds without a byte, after which a sender is gone
JSON_BYTES = 2**20  # of the body that names uploads


# -- one upload --------------------------------------------------------------------------


def begin(db: Session, who: Principal, file_name: str, size: int) -> DatasetUpload:
    """Announce a file of `size` bytes. Refused here is what would be refused at its end."""
    bounded(size)
    unused = select(func.count()).where(DatasetUpload.workspace_id == who.workspace_id)
    if (db.scalar(unused) or 0) >= MOST:
        raise Conflict(
            N_("%(most)s files are on their way already. Finish or cancel some of them."),
            code="upload.too_many",
            field="file",
            most=MOST,
        )
    settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    if shutil.disk_usage(settings.uploads).free < size:
        raise disk_full()
    one = DatasetUpload(
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        file_name=placed_name(file_name),
        size=size,
    )
    db.add(one)
    db.flush()
    return one


def bounded(size: int) -> None:
    if size > settings.max_upload_mb * 2**20:
        raise TooLarge(
            N_("This is too large: at most %(most)s MiB are taken here."),
            field="file",
            most=settings.max_upload_mb,
        )


def find(db: Session, who: Principal, upload_id: str) -> DatasetUpload:
    """Raises NotFound, also for another workspace's."""
    query = select(DatasetUpload).where(
        DatasetUpload.id == upload_id, DatasetUpload.workspace_id == who.workspace_id
    )
    one = db.scalar(query)
    if one is None:
        raise NotFound(N_("There is no such upload, or it was left alone for too long."))
    return one


def unfinished(db: Session, who: Principal) -> list[DatasetUpload]:
    """The workspace's uploads that are not used yet, the newest first."""
    query = select(DatasetUpload).where(DatasetUpload.workspace_id == who.workspace_id)
    return list(db.scalars(query.order_by(DatasetUpload.created_at.desc()).limit(MOST)))


def place(upload_id: str) -> Path:
    return settings.uploads / upload_id / BODY


def offset(upload_id: str) -> int:
    """How many bytes are here."""
    try:
        return place(upload_id).stat().st_size
    except FileNotFoundError:
        return 0


def remove(db: Session, upload: DatasetUpload) -> None:
    shutil.rmtree(settings.uploads / upload.id, ignore_errors=True)
    db.delete(upload)


def clear(db: Session) -> None:
    """A step of the sweep: forget what nobody has gone on with for a day."""
    limit = now() - timedelta(seconds=UNFINISHED)
    query = select(DatasetUpload).where(DatasetUpload.touched_at < limit).limit(100)
    for upload in db.scalars(query.with_for_update(skip_locked=True)):
        remove(db, upload)


# -- a piece of it -----------------------------------------------------------------------


@dataclass
class Piece:
    """What a request added: where the upload now stands, and why it stopped there, if early."""

    upload: DatasetUpload
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


def found(who: Principal, upload_id: str) -> DatasetUpload:
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
        if (one := db.get(DatasetUpload, upload_id)) is not None:
            one.received, one.touched_at = received, now()


Appended = Annotated[Piece, Depends(appended)]


# -- using uploads -----------------------------------------------------------------------


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
        ones = [find(db, who, upload_id) for upload_id in dict.fromkeys(upload_ids)]
    for number, one in enumerate(ones):
        at = offset(one.id)
        if at != one.size:
            raise Conflict(
                N_("“%(name)s” is not complete: %(at)s of %(size)s bytes are here."),
                code="upload.unfinished",
                name=one.file_name,
                at=at,
                size=one.size,
            )
        os.link(place(one.id), upload.directory / part(number))
        upload.files.append({"name": one.file_name, "bytes": one.size})
    first, _, inside = ones[0].file_name.partition("/")
    upload.file_name = f"{first}/" if inside else first
    upload.size = sum(one.size for one in ones)
    bounded(upload.size)
    upload.pieces = [one.id for one in ones]


def used(upload_ids: list[str]) -> None:
    """These uploads are a version now, or can never be one."""
    if not upload_ids:
        return
    with transaction() as db:
        for one in db.scalars(select(DatasetUpload).where(DatasetUpload.id.in_(upload_ids))):
            remove(db, one)


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
            await run_in_threadpool(used, upload.pieces)
    finally:
        with suppress(OSError):
            await run_in_threadpool(shutil.rmtree, upload.directory, ignore_errors=True)


Received = Annotated[Upload, Depends(received, scope="function")]
