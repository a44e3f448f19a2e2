"""What takes longer than a query: validating, publishing, clearing.

Each function loads in one unit of work, works with no session open, and applies in another,
guarded by the status and the cursor it began from; so doing it twice, or being killed in the
middle, does no harm. A long work goes in stretches of seconds, each with a nudge of its own.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import zstandard
from sqlalchemy import delete, exists, select
from sqlalchemy.exc import OperationalError

from app import storage
from app.accounts.auth import Principal
from app.datasets import formats, service, trash
from app.datasets.drafts import comparing, rewriting
from app.datasets.files import drop
from app.datasets.intake.upload import Upload, clear_abandoned, joined, partial
from app.datasets.rows import segments
from app.datasets.states import (
    DRAFT,
    FAILED,
    IMPORTING,
    PUBLISHED,
    PUBLISHING,
    READING,
    VALIDATING,
    switch,
)
from app.datasets.tables import Dataset, DatasetEvent, DatasetIssue, DatasetVersion
from app.datasets.validation import checking
from app.db import new_id, now
from app.errors import DISK_FULL, N_, Invalid, NotFound, Unavailable
from app.failures import is_full
from app.queue import transaction

log = structlog.get_logger()

INLINE_BYTES = 32 * 2**20  # an upload up to this size is validated while the uploader waits
PACKED_BYTES = 2**20  # and up to this one, where a file in it is compressed
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK", b"PAR1")  # gzip, zstd, zip and XLSX, Parquet
MAX_ATTEMPTS = 5

GIVEN_UP: dict[str, Any] = {
    "code": "stopped",
    "message": N_(
        "The work on this file stopped unexpectedly several times. Upload the file again; "
        "if it stays, an administrator finds the reason in the server's log."
    ),
    "params": {},
}
LOST: dict[str, Any] = {
    "code": "rows.lost",
    "message": N_("The stored rows cannot be read any more. Upload the file again."),
    "params": {},
}

# -- uploading ---------------------------------------------------------------------------


def take(who: Principal, upload: Upload, dataset_id: str = "") -> DatasetVersion:
    """An upload as a new dataset, or as a new version of one; `.dataset` is loaded.

    A small file is validated here: the version is a draft. A large one is `validating`.
    Raises Invalid, leaving nothing behind, for a file that cannot be a dataset.
    """
    if upload.error:
        raise upload.error
    clear_abandoned()
    version_id = new_id("dv")
    name = upload.fields.get("name", "")
    name = "" if dataset_id else service.clean_name(name, upload.file_name)
    with transaction() as db:
        dataset = service.own(db, who, dataset_id) if dataset_id else service.create(db, who, name)
        added = service.add_version(
            db,
            dataset,
            user_id=who.user_id,
            id=version_id,
            file_name=joined(upload.files) or upload.file_name,
            files=upload.files or [{"name": upload.file_name, "bytes": upload.size}],
            bytes=upload.size,
            recipe={"made": "upload"},
            upload=f"uploads/{version_id}",
            claimed_at=now(),  # by us: the sweep leaves it alone
        )
    try:
        storage.move(upload.directory, added.upload)
        if upload.size <= (min(PACKED_BYTES, INLINE_BYTES) if packed(added) else INLINE_BYTES):
            finish(added)
        else:
            release(version_id)
    except Invalid as error:
        discard(version_id)
        raise refused(error.kept()) from error
    except BaseException:
        discard(version_id)
        raise
    return settled(who, added)


def packed(added: DatasetVersion) -> bool:
    """May the files be much larger than they look?"""
    for file in checking.uploaded(added):
        with file.path.open("rb") as opened:
            if opened.read(4).startswith(PACKED):
                return True
    return False


def settled(who: Principal, added: DatasetVersion) -> DatasetVersion:
    """The version as it now stands. Raises Invalid if nothing of the file can be used."""
    with transaction() as db:
        found = service.version(db, who.workspace_id, added.dataset_id, added.id)
    if found.status != FAILED:
        return found
    discard(found.id)
    raise refused(found.error or GIVEN_UP)


def refused(why: dict[str, Any]) -> Invalid:
    return Invalid(why["message"], code=why["code"], field="file", **why["params"])


def release(version_id: str) -> None:
    """Anybody may take the next stretch."""
    with transaction() as db:
        if (one := db.get(DatasetVersion, version_id, with_for_update=True)) is not None:
            one.claimed_at = None
            service.nudge(db, one)


def discard(version_id: str) -> None:
    """Undo an upload: the files, the version, and the dataset if that was all it had."""
    with transaction() as db:
        one = db.get(DatasetVersion, version_id)
        if one is None:
            return
    for artefact in filter(None, (one.upload, one.checks.get("artefact"))):
        storage.delete(artefact)
    checking.sweep_up(one)
    for segment in one.segments:
        drop(segment["artefact"], but=version_id)
    with transaction() as db:
        db.execute(delete(DatasetEvent).where(DatasetEvent.version_id == version_id))
        db.execute(delete(DatasetIssue).where(DatasetIssue.version_id == version_id))
        db.execute(delete(DatasetVersion).where(DatasetVersion.id == version_id))
        others = exists().where(DatasetVersion.dataset_id == Dataset.id)
        db.execute(delete(Dataset).where(Dataset.id == one.dataset_id, ~others))


# -- taking turns ------------------------------------------------------------------------


def claim(version_id: str, status: str) -> DatasetVersion | None:
    """The version, if it is in `status` and nobody else is at it. Detached; count the attempt."""
    with transaction() as db:
        query = select(DatasetVersion).where(
            DatasetVersion.id == version_id, DatasetVersion.status == status
        )
        one = db.scalar(query.with_for_update(skip_locked=True))
        if one is None or (one.claimed_at and one.claimed_at > now() - service.STALE):
            return None
        if one.attempts >= MAX_ATTEMPTS:
            switch(db, one, FAILED, error=GIVEN_UP)
            return None
        one.attempts += 1
        one.claimed_at, one.error = now(), None
    return one


@contextmanager
def until_room(one: DatasetVersion) -> Iterator[None]:
    """Wait out a full disk: the version says so, the attempt does not count, and the sweep tries
    again when the claim is stale.
    """
    try:
        yield
    except (OSError, OperationalError, Unavailable) as error:
        if not is_full(error):
            raise
        log.warning("the disk is full, so a version waits", version=one.id)
        with transaction() as db:
            held = db.get(DatasetVersion, one.id, with_for_update=True)
            if held is not None and (held.status, held.cursor) == (one.status, one.cursor):
                held.attempts = max(held.attempts - 1, 0)
                held.error = {"code": "disk_full", "message": DISK_FULL, "params": {}}


# -- validating --------------------------------------------------------------------------


def validate_version(version_id: str) -> None:
    """One stretch of a validation: the body of the task `workers.validate_dataset`. The upload goes
    once it is not needed any more.
    """
    if one := claim(version_id, VALIDATING):
        with until_room(one):
            after = checking.stretch(one)
            if after is not None and after.status not in READING:
                clear(after.dataset_id)


def finish(one: DatasetVersion) -> None:
    """Validate a small upload to its end. Raises Invalid where nothing can be made of it."""
    after: DatasetVersion | None = one
    while after is not None and after.status == VALIDATING:
        after = checking.stretch(after, ours=True)
    if after is not None and after.status == DRAFT:
        clear(after.dataset_id)


# -- publishing --------------------------------------------------------------------------


def publish(
    who: Principal, dataset_id: str, *, which: str = "", skip_invalid: bool = False
) -> DatasetVersion:
    """Freeze a draft; a large one is `publishing` when this returns. `.dataset` is loaded."""
    with transaction() as db:
        draft = service.publish(db, who, dataset_id, which=which, skip_invalid=skip_invalid)
        rewriting.prepare(db, draft, who.user_id)
        if small := draft.bytes <= INLINE_BYTES:
            draft.claimed_at = now()
        else:
            service.nudge(db, draft)
    one: DatasetVersion | None = draft if small else None
    while one is not None:
        one = freeze(one)
    with transaction() as db:
        return service.version(db, who.workspace_id, dataset_id, draft.id)


def publish_version(version_id: str) -> None:
    """One segment of a publication: the body of the task `workers.publish_dataset`."""
    if one := claim(version_id, PUBLISHING):
        with until_room(one):
            freeze(one)


def freeze(one: DatasetVersion) -> DatasetVersion | None:
    """Write the draft's edits into segments, if it has any; then read the next segment back and
    add it to the hash; after the last, the version is fixed. What is still to be frozen, if we
    are the ones at it.

    What is published is thus what the store really holds.
    """
    try:
        if rewriting.settle(one):
            return further(one)
    except (NotFound, ValueError, zstandard.ZstdError):
        log.exception("the rows of a draft cannot be read", version=one.id)
        with transaction() as db:
            held = db.get(DatasetVersion, one.id, with_for_update=True)
            if held is not None and held.status == PUBLISHING:
                held.rows = 0
                switch(db, held, FAILED, error=LOST)
        return None
    at, digest = one.cursor.get("segment", 0), one.cursor.get("digest", "")
    segment = one.segments[at]
    rows = 0
    try:
        for row in segments.read(storage.fetch(segment["artefact"])):
            digest = formats.fingerprint(digest, row)
            rows += 1
    except (FileNotFoundError, ValueError, zstandard.ZstdError):
        log.exception("a segment cannot be read", version=one.id)
    with transaction() as db:
        held = db.get(DatasetVersion, one.id, with_for_update=True)
        if held is None or held.status != PUBLISHING or held.cursor != one.cursor:
            return None
        if rows != segment["rows"]:
            held.rows = 0
            switch(db, held, FAILED, error=LOST)
        elif at + 1 < len(one.segments):
            held.cursor = {"segment": at + 1, "digest": digest}
            held.claimed_at, held.attempts = None, 0
            service.nudge(db, held)
            return held
        else:
            held.content_hash, held.published_at = digest, now()
            switch(db, held, PUBLISHED)
    rewriting.forget(one.id)
    return None


def further(one: DatasetVersion) -> DatasetVersion | None:
    """The version after a stretch of writing edits: anybody may take the next one."""
    with transaction() as db:
        held = db.get(DatasetVersion, one.id, with_for_update=True)
        if held is None or held.status != PUBLISHING:
            return None
        held.claimed_at, held.attempts = None, 0
        service.nudge(db, held)
    return held


# -- clearing ----------------------------------------------------------------------------


def clear(dataset_id: str) -> None:
    """Remove the files that nothing needs: the body of the task `workers.clear_dataset`.

    These are uploads that are done with, and the rows of failed versions and purged datasets.
    """
    with transaction() as db:
        gone = trash.purge(db, dataset_id)
        found = service.versions(db, dataset_id)
    if gone:
        comparing.clear(dataset_id)
    for one in found:
        rows = one.segments if gone or one.status == FAILED else []
        upload = one.upload if gone or one.status not in READING else ""
        if one.status != IMPORTING:
            shutil.rmtree(partial(one.id), ignore_errors=True)
        if gone or one.status in (FAILED, PUBLISHED):
            rewriting.forget(one.id)
        for segment in rows:
            drop(segment["artefact"])
        if rows and "artefact" in one.checks:
            storage.delete(one.checks["artefact"])
        if upload:
            storage.delete(upload)
            checking.sweep_up(one)
        if rows or upload:
            with transaction() as db:
                held = db.get(DatasetVersion, one.id, with_for_update=True)
                if held is not None:
                    held.upload = "" if upload else held.upload
                    held.segments = [] if rows else held.segments
