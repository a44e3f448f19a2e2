"""Files at the gateway: keeping them, finding them, letting them go.

`add` and `made` take longer than a query: they work with no session open and store in one of their
own. Other parts of the gateway (batches, tuning) use this module; nobody else reads the table.
"""

import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import orjson
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets.files import room
from app.db import now
from app.errors import N_, Invalid, NotFound
from app.gateway.files.tables import File, file_id
from app.queue import transaction
from app.quotas import stored
from app.uploads.service import BODY, display_name

PURPOSES = ("fine-tune", "batch")  # that a client may upload
LINES = ("fine-tune", "batch")  # of JSON, one object each
KEPT = {"batch": timedelta(days=30)}  # by default; others until they are deleted
LOOKED_AT = 64 * 2**20  # bytes whose lines are checked on arrival; a job checks them all
SECONDS = (3600, 2592000)  # that a client may have a file kept
BUFFER = 2**20
NOT_JSONL = N_(
    "Expected file to have JSONL format, where every line is a JSON dictionary. "
    "Line %(line)s is not a dictionary (HINT: line starts with: %(start)s)."
)


# -- keeping -----------------------------------------------------------------------------


def check_purpose(purpose: str) -> None:
    if purpose not in PURPOSES:
        raise Invalid(
            N_("'%(value)s' is not one of %(known)s - 'purpose'"),
            code="invalid_value",
            field="purpose",
            value=purpose[:100],
            known=str(list(PURPOSES)),
        )


def check_seconds(seconds: int | None) -> None:
    if seconds is not None and not SECONDS[0] <= seconds <= SECONDS[1]:
        raise Invalid(
            N_("A file is kept for %(least)s to %(most)s seconds."),
            code="invalid_value",
            field="expires_after",
            least=SECONDS[0],
            most=SECONDS[1],
        )


def check_name(file_name: str, purpose: str) -> None:
    """As OpenAI has it. Raises Invalid."""
    if purpose in LINES and not file_name.lower().endswith(".jsonl"):
        raise Invalid(
            N_("Invalid file format for %(api)s API. Must be .jsonl"),
            code="invalid_file_format",
            field="file",
            api={"fine-tune": "Fine-Tuning", "batch": "Batch"}[purpose],
        )


def add(
    who: Principal,
    path: Path,
    *,
    file_name: str,
    purpose: str,
    seconds: int | None = None,
    description: str = "",
) -> File:
    """Keep what lies at `path`, which is gone then. Raises Invalid if it is not what it should be."""
    check_purpose(purpose)
    check_seconds(seconds)
    if purpose in LINES:
        check_lines(path)
    return keep(
        path,
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        file_name=display_name(file_name) or "file",
        purpose=purpose,
        description=description,
        expires=timedelta(seconds=seconds) if seconds else KEPT.get(purpose),
    )


def keep(path: Path, *, expires: timedelta | None = None, **columns: Any) -> File:
    """Into the store, then into the table. `path` is gone then."""
    made = File(
        id=file_id(),
        bytes=path.stat().st_size,
        md5=digest(path),
        created_at=now(),
        expires_at=now() + expires if expires else None,
        **columns,
    )
    made.artefact = f"files/{made.id}"
    with room() as directory:
        shutil.move(path, directory / BODY)
        storage.move(directory, made.artefact)
    try:
        with transaction() as db:
            if made.purpose in LINES:  # a person's; the platform's own results are never refused
                stored.check(db, made.workspace_id, made.user_id, made.bytes)
            db.add(made)
    except BaseException:
        storage.delete(made.artefact)
        raise
    return made


def made(
    workspace_id: str, file_name: str, purpose: str, content: bytes, *, user_id: str | None = None
) -> File:
    """A file that the platform wrote itself: results."""
    with room() as directory:
        path = directory / BODY
        path.write_bytes(content)
        return keep(
            path, workspace_id=workspace_id, user_id=user_id, file_name=file_name, purpose=purpose
        )


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_lines(path: Path) -> None:
    """Raises Invalid for the first line that is no JSON object."""
    seen = 0
    with path.open("rb") as file:
        while seen < LOOKED_AT:
            line = file.readline(LOOKED_AT)
            if not line:
                break
            seen += len(line)
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text and not is_object(text):
                start = text[:24].decode(errors="replace") + ("..." if len(text) > 24 else "")
                raise Invalid(
                    NOT_JSONL,
                    code="invalid_file_format",
                    field="file",
                    line=line_number(path, file.tell() - len(line)),
                    start=json.dumps(start, ensure_ascii=False),
                )


def is_object(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return len(text) >= LOOKED_AT  # a piece of one huge line


def line_number(path: Path, offset: int) -> int:
    """Of the line that begins at `offset`."""
    with path.open("rb") as file:
        return file.read(offset).count(b"\n") + 1


# -- finding -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, wanted: str) -> File:
    """Raises NotFound, also for another workspace's and for what is deleted or expired."""
    found = db.get(File, wanted)
    if found is None or found.workspace_id != workspace_id or gone(found):
        raise NotFound(N_("No such File object: %(id)s"), field="id", id=wanted[:100])
    return found


def gone(file: File) -> bool:
    return bool(file.deleted_at or (file.expires_at and file.expires_at <= now()))


def path(file: File) -> Path:
    """Where its bytes are on this machine. Raises NotFound if the store has lost them."""
    try:
        return storage.fetch(file.artefact) / BODY
    except FileNotFoundError:
        raise NotFound(
            N_("The bytes of this file are no longer in the store."), field="id"
        ) from None


def here(workspace_id: str) -> tuple[Any, ...]:
    """The conditions on files that this workspace can see."""
    return (
        File.workspace_id == workspace_id,
        File.deleted_at.is_(None),
        File.expires_at.is_(None) | (File.expires_at > now()),
    )


def listed(
    db: Session,
    workspace_id: str,
    *,
    after: str = "",
    limit: int = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str = "",
) -> tuple[list[File], bool]:
    """Those that follow the file `after`, and whether there are more."""
    query = select(File).where(*here(workspace_id))
    if purpose:
        query = query.where(File.purpose == purpose)
    place = tuple_(File.created_at, File.id)
    if after:
        last = db.get(File, after)  # which may be deleted meanwhile
        if last is None or last.workspace_id != workspace_id:
            raise NotFound(N_("No such File object: %(id)s"), field="after", id=after[:100])
        at = (last.created_at, last.id)
        query = query.where(place > at if order == "asc" else place < at)
    ordered = (File.created_at, File.id)
    query = query.order_by(*(ordered if order == "asc" else [one.desc() for one in ordered]))
    found = list(db.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def page(db: Session, workspace_id: str, *, offset: int, limit: int) -> tuple[list[File], int]:
    """A page of them, the newest first, and how many there are."""
    query = select(File).where(*here(workspace_id))
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    query = query.order_by(File.created_at.desc(), File.id.desc())
    return list(db.scalars(query.offset(offset).limit(limit))), total


# -- letting go --------------------------------------------------------------------------


def remove(db: Session, workspace_id: str, wanted: str) -> File:
    """It is not there any more; the dataset that it became stays."""
    found = get(db, workspace_id, wanted)
    found.deleted_at = now()
    return found


def clear(db: Session) -> None:
    """A step of the sweep: the bytes of what is deleted or expired. The rows stay as bookmarks."""
    over = (File.deleted_at.is_not(None)) | (File.expires_at <= now())
    query = select(File).where(over, File.artefact != "").limit(100)
    for one in db.scalars(query.with_for_update(skip_locked=True)):
        storage.delete(one.artefact)
        one.deleted_at, one.artefact = one.deleted_at or now(), ""
