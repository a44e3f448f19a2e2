"""Receives a multipart upload: the file goes to disk as it arrives, never into memory."""

import errno
import io
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from fastapi import Depends, Request
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.config import settings
from app.errors import DISK_FULL, N_, DomainError, Invalid, Unavailable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BODY = "body"  # the file's name on disk; the uploader's name is for display only
BUFFER = 2**20
FIELD_BYTES = 64 * 2**10
MAX_PARTS = 100
ABANDONED = 3600  # seconds without a write, after which an upload's writer is dead


@dataclass
class Upload:
    """A file on disk and the fields that came with it, or the error that came of it."""

    directory: Path
    file_name: str = ""
    size: int = 0  # bytes
    fields: dict[str, str] = field(default_factory=dict)
    error: DomainError | None = None

    @property
    def path(self) -> Path:
        return self.directory / BODY


def display_name(raw: str) -> str:
    """The last part of a file name from outside, for display: no path, nothing unprintable."""
    name = re.split(r"[\\/]", raw)[-1]
    return "".join(char for char in name if char.isprintable()).strip()[-200:]


def scratch() -> Path:
    """A new directory beside the uploads, for work that is not finished yet."""
    settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(prefix="part-", dir=settings.uploads))


def clear_abandoned() -> None:
    """Remove what a killed process left behind."""
    for directory in settings.uploads.glob("part-*"):
        try:
            newest = max(path.stat().st_mtime for path in (directory, *directory.iterdir()))
        except FileNotFoundError:
            continue
        if newest < time.time() - ABANDONED:
            shutil.rmtree(directory, ignore_errors=True)


class Parts:
    """The parser's callbacks. File bytes collect in `pending` until the caller writes them."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.pending = io.BytesIO()
        self.ended = False
        self.parts = self.files = 0
        self.header = b""
        self.value = b""
        self.disposition = b""
        self.name = ""
        self.text: bytearray | None = None

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.on_part_begin,
            "on_header_begin": self.on_header_begin,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_headers_finished": self.on_headers_finished,
            "on_part_data": self.on_part_data,
            "on_part_end": self.on_part_end,
            "on_end": self.on_end,
        }

    def on_part_begin(self) -> None:
        self.parts += 1
        self.disposition, self.name, self.text = b"", "", None
        if self.parts > MAX_PARTS:
            raise Invalid(N_("The form has too many parts."), code="form")

    def on_header_begin(self) -> None:
        self.header = self.value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def on_header_end(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = self.value

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" not in options and self.name != "file":
            self.text = bytearray()
            return
        self.files += 1
        if self.files > 1:
            raise Invalid(N_("Upload one file at a time."), code="file.many", field="file")
        file_name = options.get(b"filename", b"").decode(errors="replace")
        self.upload.file_name = display_name(file_name)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.text is None:
            self.pending.write(data[start:end])
        elif len(self.text) + end - start > FIELD_BYTES:
            raise Invalid(N_("This field is too long."), code="form", field=self.name[:50])
        else:
            self.text += data[start:end]

    def on_part_end(self) -> None:
        if self.text is not None:
            self.upload.fields[self.name] = self.text.decode(errors="replace")

    def on_end(self) -> None:
        self.ended = True


async def receive(request: Request, upload: Upload) -> None:
    """Read the body into `upload`. Raises DomainError for a body that is no whole upload."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Invalid(
            N_("Send the file as multipart/form-data, in a field called “file”."),
            code="content_type",
            field="file",
        )
    parts = Parts(upload)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        with upload.path.open("wb") as file:
            async for chunk in request.stream():
                parser.write(chunk)
                if parts.pending.tell() >= BUFFER:
                    upload.size += await run_in_threadpool(drain, parts, file)
            upload.size += await run_in_threadpool(drain, parts, file)
    except MultipartParseError:
        raise Invalid(N_("The form could not be read."), code="form") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise Unavailable(DISK_FULL, code="disk_full") from None
    except ClientDisconnect:
        raise Invalid(N_("The upload was cut off."), code="file.cut") from None
    if not parts.ended:
        raise Invalid(N_("The upload was cut off."), code="file.cut", field="file")
    if not parts.files or not (upload.size or upload.file_name):
        raise Invalid(N_("Choose a file."), code="file.missing", field="file")
    if not upload.size:
        raise Invalid(N_("The file is empty."), code="file.empty", field="file")


def drain(parts: Parts, file: BinaryIO) -> int:
    """Write what is pending; how many bytes that was."""
    written = file.write(parts.pending.getvalue())
    parts.pending = io.BytesIO()
    return written


async def received(request: Request) -> AsyncIterator[Upload]:
    """The request's upload. Whatever is still on disk when the route is done, is removed.

    Declare it after `requires`, so that nobody who may not upload is read from.
    """
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
