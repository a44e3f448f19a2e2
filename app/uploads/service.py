"""Uploads in pieces: a file is announced, sent in as many requests as it takes, then used.

Its bytes so far lie in `settings.uploads`, and their number is how far it has come: nothing is
synced while it arrives, so what a crash of the machine takes is sent again. Whoever was cut off
asks for the offset and goes on from there.
"""

import re
import shutil
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import room
from app.accounts.auth import Principal
from app.config import settings
from app.db import now
from app.errors import N_, Conflict, NotFound, TooLarge
from app.queue import transaction
from app.quotas import stored
from app.uploads.tables import Upload

BODY = "body"  # a file's name on disk; the uploader's name is for display only
BUFFER = 2**20
MOST = 200  # uploads of one workspace that are not used yet
UNFINISHED = 86400  # seconds that an upload waits for its next piece


def begin(db: Session, who: Principal, file_name: str, size: int) -> Upload:
    """Announce a file of `size` bytes. Refused here is what would be refused at its end."""
    bounded(size)
    unused = select(func.count()).where(Upload.workspace_id == who.workspace_id)
    if (db.scalar(unused) or 0) >= MOST:
        raise Conflict(
            N_("%(most)s files are on their way already. Finish or cancel some of them."),
            code="upload.too_many",
            field="file",
            most=MOST,
        )
    stored.check(db, who.workspace_id, who.user_id, size)
    settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    room.check(db, size)
    one = Upload(
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


def find(db: Session, who: Principal, upload_id: str) -> Upload:
    """Raises NotFound, also for another workspace's."""
    query = select(Upload).where(Upload.id == upload_id, Upload.workspace_id == who.workspace_id)
    one = db.scalar(query)
    if one is None:
        raise NotFound(N_("There is no such upload, or it was left alone for too long."))
    return one


def unfinished(db: Session, who: Principal) -> list[Upload]:
    """The workspace's uploads that are not used yet, the newest first."""
    query = select(Upload).where(Upload.workspace_id == who.workspace_id)
    return list(db.scalars(query.order_by(Upload.created_at.desc()).limit(MOST)))


def place(upload_id: str) -> Path:
    return settings.uploads / upload_id / BODY


def offset(upload_id: str) -> int:
    """How many bytes are here."""
    try:
        return place(upload_id).stat().st_size
    except FileNotFoundError:
        return 0


def remove(db: Session, upload: Upload) -> None:
    shutil.rmtree(settings.uploads / upload.id, ignore_errors=True)
    db.delete(upload)


def clear(db: Session) -> None:
    """A step of the sweep: forget what nobody has gone on with for a day."""
    limit = now() - timedelta(seconds=UNFINISHED)
    query = select(Upload).where(Upload.touched_at < limit).limit(100)
    for upload in db.scalars(query.with_for_update(skip_locked=True)):
        remove(db, upload)


# -- using them --------------------------------------------------------------------------


def complete(db: Session, who: Principal, upload_ids: list[str]) -> list[Upload]:
    """The uploads, each once. Raises NotFound, Conflict for one that is not all here."""
    ones = [find(db, who, upload_id) for upload_id in dict.fromkeys(upload_ids)]
    for one in ones:
        at = offset(one.id)
        if at != one.size:
            raise Conflict(
                N_("“%(name)s” is not complete: %(at)s of %(size)s bytes are here."),
                code="upload.unfinished",
                name=one.file_name,
                at=at,
                size=one.size,
            )
    return ones


def used(upload_ids: list[str]) -> None:
    """Something was made of these uploads, or can never be."""
    if not upload_ids:
        return
    with transaction() as db:
        for one in db.scalars(select(Upload).where(Upload.id.in_(upload_ids))):
            remove(db, one)


# -- names -------------------------------------------------------------------------------


def display_name(raw: str) -> str:
    """The last part of a file name from outside, for display: no path, nothing unprintable."""
    name = re.split(r"[\\/]", raw)[-1]
    return "".join(char for char in name if char.isprintable()).strip()[-200:]


def placed_name(raw: str) -> str:
    """A file's name with the folders it was chosen from: for display, and for files that name each
    other. Never a path of ours.
    """
    parts = [display_name(part) for part in re.split(r"[\\/]", raw)]
    return "/".join(part for part in parts if part not in ("", ".", ".."))[-500:].lstrip("/")
