"""Receives a multipart upload: its files go to disk as they arrive, never into memory.

The files of a version lie in one directory under names of ours, `part(0)`, `part(1)` and so on,
in the order of `DatasetVersion.files`. A JSON body names uploads that came in pieces instead.
"""

import errno
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.accounts.room import check as check_room
from app.config import settings
from app.errors import N_, DomainError, Invalid, disk_full
from app.queue import transaction
from app.uploads.service import BODY, BUFFER, UNFINISHED, display_name

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD_BYTES = 64 * 2**10
MAX_PARTS = 200
MAX_FILES = 100  # of one version
ABANDONED = 3600  # seconds without a write, after which an upload's writer is dead


@dataclass
class Upload:
    """Files on disk and the fields that came with them, or the error that came of it."""

    directory: Path
    file_name: str = ""  # of the first file
    size: int = 0  # bytes of all
    fields: dict[str, str] = field(default_factory=dict)
    error: DomainError | None = None
    files: list[dict[str, Any]] = field(default_factory=list)  # {name, bytes}; the first at part(0)
    pieces: list[str] = field(default_factory=list)  # the uploads in pieces that these files are

    @property
    def path(self) -> Path:
        return self.directory / BODY


def part(number: int) -> str:
    """The name on disk of a version's file, from 0."""
    return f"{BODY}.{number}" if number else BODY


def joined(files: list[dict[str, Any]]) -> str:
    """The names of several files as one, for display."""
    return display_name(", ".join(one["name"].rsplit("/", 1)[-1] for one in files))


def scratch() -> Path:
    """A new directory beside the uploads, for work that is not finished yet."""
    settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(prefix="part-", dir=settings.uploads))


def partial(version_id: str) -> Path:
    """Where the bytes of an import collect; `clear_abandoned` removes it if nobody goes on."""
    return settings.uploads / f"part-{version_id}"


def clear_abandoned() -> None:
    """Remove what a killed process left behind, and uploads in pieces that nobody goes on with."""
    for pattern, seconds in (("part-*", ABANDONED), ("up_*", UNFINISHED)):
        for directory in settings.uploads.glob(pattern):
            try:
                newest = max(path.stat().st_mtime for path in (directory, *directory.iterdir()))
            except FileNotFoundError:
                continue
            if newest < time.time() - seconds:
                shutil.rmtree(directory, ignore_errors=True)


class Parts:
    """The parser's callbacks. Bytes of file n collect in `pending[n]` until they are written."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.pending: dict[int, bytearray] = {}
        self.held = 0  # bytes that are pending
        self.ended = False
        self.parts = 0
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
        if len(self.upload.files) == MAX_FILES:
            raise too_many_files()
        file_name = options.get(b"filename", b"").decode(errors="replace")
        self.upload.files.append({"name": display_name(file_name), "bytes": 0})

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.text is None:
            self.pending.setdefault(len(self.upload.files) - 1, bytearray()).extend(data[start:end])
            self.held += end - start
        elif len(self.text) + end - start > FIELD_BYTES:
            raise Invalid(N_("This field is too long."), code="form", field=self.name[:50])
        else:
            self.text += data[start:end]

    def on_part_end(self) -> None:
        if self.text is not None:
            self.upload.fields[self.name] = self.text.decode(errors="replace")

    def on_end(self) -> None:
        self.ended = True


def too_many_files() -> Invalid:
    return Invalid(
        N_("At most %(most)s files make one dataset. Pack them in a zip, or join them."),
        code="file.many",
        field="file",
        most=MAX_FILES,
    )


def enough_room(size: int) -> None:
    """Raises DiskFull."""
    with transaction() as db:
        check_room(db, size)


async def receive(request: Request, upload: Upload) -> None:
    """Read the body into `upload`. Raises DomainError for a body that is no whole upload."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Invalid(
            N_("Send the file as multipart/form-data, in a field called “file”."),
            code="content_type",
            field="file",
        )
    length = request.headers.get("content-length", "")
    await run_in_threadpool(enough_room, int(length) if length.isdecimal() else 0)
    parts = Parts(upload)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            if parts.held >= BUFFER:
                await run_in_threadpool(drain, parts)
        await run_in_threadpool(drain, parts)
    except MultipartParseError:
        raise Invalid(N_("The form could not be read."), code="form") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise disk_full() from None
    except ClientDisconnect:
        raise Invalid(N_("The upload was cut off."), code="file.cut") from None
    if not parts.ended:
        raise Invalid(N_("The upload was cut off."), code="file.cut", field="file")
    if not any(one["name"] or one["bytes"] for one in upload.files):
        raise Invalid(N_("Choose a file."), code="file.missing", field="file")
    if not all(one["bytes"] for one in upload.files):
        raise Invalid(N_("The file is empty."), code="file.empty", field="file")


def drain(parts: Parts) -> None:
    """Write what is pending."""
    upload = parts.upload
    for number, data in parts.pending.items():
        with (upload.directory / part(number)).open("ab") as file:
            upload.files[number]["bytes"] += file.write(data)
    parts.pending, parts.held = {}, 0
    upload.file_name = upload.files[0]["name"] if upload.files else ""
    upload.size = sum(one["bytes"] for one in upload.files)
