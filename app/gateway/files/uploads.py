"""Uploads in parts, as OpenAI has them: announced, sent in parts of any order, completed to a file."""

import shutil
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.room import check as check_room
from app.config import settings
from app.datasets.files import room
from app.datasets.intake.upload import Upload
from app.db import new_id, now
from app.errors import N_, Conflict, Invalid, NotFound, TooLarge
from app.gateway.files import service
from app.gateway.files.tables import File, FilePart, FileUpload
from app.queue import transaction
from app.uploads.service import BODY, display_name

LIFE = timedelta(hours=1)
GRACE = timedelta(minutes=10)  # for one that is completed in its last moment
PART = 64 * 2**20  # bytes, at most
MOST = 200  # of one workspace that are not completed


def create(
    db: Session,
    who: Principal,
    *,
    file_name: str,
    purpose: str,
    mime_type: str,
    size: int,
    seconds: int | None,
) -> FileUpload:
    """Announce a file of `size` bytes. Refused here is what would be refused at its end."""
    service.check_purpose(purpose)
    service.check_name(file_name, purpose)
    service.check_seconds(seconds)
    if size > settings.max_upload_mb * 2**20:
        raise TooLarge(
            N_("This is too large: at most %(most)s MiB are taken here."),
            field="bytes",
            most=settings.max_upload_mb,
        )
    pending = select(func.count()).where(
        FileUpload.workspace_id == who.workspace_id, FileUpload.status == "pending"
    )
    if (db.scalar(pending) or 0) >= MOST:
        raise Conflict(
            N_("%(most)s files are on their way already. Finish or cancel some of them."),
            code="upload.too_many",
            most=MOST,
        )
    settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_room(db, size)
    one = FileUpload(
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        file_name=display_name(file_name) or "file",
        purpose=purpose,
        mime_type=mime_type,
        bytes=size,
        keep_seconds=seconds,
        expires_at=now() + LIFE,
    )
    db.add(one)
    db.flush()
    return one


def get(db: Session, who: Principal, upload_id: str, *, lock: bool = False) -> FileUpload:
    """Raises NotFound, also for another workspace's."""
    one = db.get(FileUpload, upload_id, with_for_update=lock)
    if one is None or one.workspace_id != who.workspace_id:
        raise NotFound(N_("No such Upload object: %(id)s"), field="upload_id", id=upload_id[:100])
    return one


def pending(one: FileUpload) -> FileUpload:
    """Raises Conflict unless it still takes parts."""
    if one.status == "pending" and one.expires_at > now():
        return one
    status = "expired" if one.status == "pending" else one.status
    raise Conflict(N_("This upload is %(status)s."), code="upload_not_pending", status=status)


def directory(upload_id: str) -> Path:
    return settings.uploads / upload_id


def add_part(who: Principal, upload_id: str, sent: Upload) -> FilePart:
    """Keep one part. Raises Conflict, and Invalid for more bytes than were announced."""
    if len(sent.files) != 1:
        raise Invalid(
            N_("A part is one file, in a field called “data”."), code="invalid_part", field="data"
        )
    if sent.size > PART:
        raise TooLarge(
            N_("This is too large: at most %(most)s MiB are taken here."),
            field="data",
            most=PART // 2**20,
        )
    part = FilePart(id=new_id("part"), upload_id=upload_id, bytes=sent.size)
    place = directory(upload_id) / part.id
    with transaction() as db:
        one = pending(get(db, who, upload_id, lock=True))
        here = select(func.coalesce(func.sum(FilePart.bytes), 0)).where(
            FilePart.upload_id == upload_id
        )
        if (db.scalar(here) or 0) + sent.size > one.bytes:
            raise Invalid(
                N_("More than the %(size)s bytes that were announced."),
                code="upload.too_long",
                field="data",
                size=one.bytes,
            )
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.move(sent.path, place)
        db.add(part)
    return part


def complete(
    who: Principal, upload_id: str, part_ids: list[str], md5: str | None
) -> tuple[FileUpload, File]:
    """Join the parts, in this order, to a file. Raises Invalid and Conflict; parts stay then."""
    with transaction() as db:
        one = pending(get(db, who, upload_id))
        known = {
            part.id: part.bytes
            for part in db.scalars(select(FilePart).where(FilePart.upload_id == upload_id))
        }
    if not part_ids or len(set(part_ids)) != len(part_ids) or not set(part_ids) <= set(known):
        raise Invalid(
            N_("part_ids must name parts of this upload, each once."),
            code="invalid_part_ids",
            field="part_ids",
        )
    size = sum(known[part_id] for part_id in part_ids)
    if size != one.bytes:
        raise Invalid(
            N_("These parts have %(found)s bytes, and %(wanted)s were announced."),
            code="bytes_mismatch",
            field="part_ids",
            found=size,
            wanted=one.bytes,
        )
    with room() as space:
        joined = space / BODY
        with joined.open("wb") as out:
            for part_id in part_ids:
                with (directory(upload_id) / part_id).open("rb") as part:
                    shutil.copyfileobj(part, out, service.BUFFER)
        if md5 and service.digest(joined) != md5.lower():
            raise Invalid(
                N_("The md5 checksum of the joined parts is another one."),
                code="md5_mismatch",
                field="md5",
            )
        file = service.add(
            who,
            joined,
            file_name=one.file_name,
            purpose=one.purpose,
            seconds=one.keep_seconds,
        )
    with transaction() as db:
        one = get(db, who, upload_id, lock=True)
        if one.status != "pending":  # somebody was quicker
            service.remove(db, who.workspace_id, file.id)
            pending(one)
        one.status, one.file_id = "completed", file.id
    shutil.rmtree(directory(upload_id), ignore_errors=True)
    return one, file


def cancel(db: Session, who: Principal, upload_id: str) -> FileUpload:
    """No parts may follow; twice is once. Raises Conflict for a completed one."""
    one = get(db, who, upload_id, lock=True)
    if one.status != "cancelled":
        pending(one).status = "cancelled"
    return one


def clear(db: Session) -> None:
    """A step of the sweep: uploads past their hour, and the parts of what is over."""
    over = (FileUpload.status == "pending", FileUpload.expires_at <= now() - GRACE)
    late = select(FileUpload).where(*over).limit(100)
    for one in db.scalars(late.with_for_update(skip_locked=True)):
        one.status = "expired"
    db.flush()
    for place in settings.uploads.glob("upload_*"):
        found = db.get(FileUpload, place.name)
        if found is None or found.status != "pending":
            shutil.rmtree(place, ignore_errors=True)
