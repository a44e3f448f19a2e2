"""What takes longer than a query: validating, publishing, clearing.

Each function loads in one unit of work, works with no session open, and applies in another,
guarded by the status and the cursor it began from; so doing it twice, or being killed in the
middle, does no harm. A long work goes in stretches of seconds, each with a nudge of its own.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import zstandard
from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.config import settings
from app.datasets import formats, segments, service, validate
from app.datasets.states import DRAFT, FAILED, PUBLISHED, PUBLISHING, VALIDATING, switch
from app.datasets.tables import Dataset, DatasetEvent, DatasetIssue, DatasetVersion
from app.datasets.upload import BODY, Upload, clear_abandoned, scratch
from app.db import new_id, now
from app.errors import N_, Invalid
from app.queue import transaction

log = structlog.get_logger()

INLINE_BYTES = 32 * 2**20  # a file up to this size is validated while the uploader waits
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
NO_ROWS = N_("The file contains no row.")
NO_GOOD_ROWS = N_("No row of this file can be used. The first problem, on line %(line)s: %(why)s")
TOO_MANY = N_(
    "More than %(most)s rows of this file cannot be used, so it is refused as a whole. "
    "The first problem, on line %(line)s: %(why)s"
)


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
    cursor = validate.begin(upload.path).to_json()
    name = upload.fields.get("name", "")
    name = "" if dataset_id else service.clean_name(name, upload.file_name)
    with transaction() as db:
        dataset = service.own(db, who, dataset_id) if dataset_id else service.create(db, who, name)
        added = service.add_version(
            db,
            dataset,
            user_id=who.user_id,
            version_id=version_id,
            file_name=upload.file_name,
            size=upload.size,
            upload=f"uploads/{version_id}",
            cursor=cursor,
        )
        added.claimed_at = now()  # by us: the sweep leaves it alone
    try:
        storage.move(upload.directory, added.upload)
        if upload.size <= INLINE_BYTES:
            stretch(added)
        else:
            release(version_id)
    except BaseException:
        discard(version_id)
        raise
    return settled(who, added)


def settled(who: Principal, added: DatasetVersion) -> DatasetVersion:
    """The version as it now stands. Raises Invalid if nothing of the file can be used."""
    with transaction() as db:
        found = service.version(db, who.workspace_id, added.dataset_id, added.id)
    if found.status != FAILED:
        return found
    discard(found.id)
    error = found.error or GIVEN_UP
    raise Invalid(error["message"], code=error["code"], field="file", **error["params"])


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
        artefacts = [one.upload, *(segment["artefact"] for segment in one.segments)]
    for artefact in filter(None, artefacts):
        storage.delete(artefact)
    with transaction() as db:
        db.execute(delete(DatasetEvent).where(DatasetEvent.version_id == version_id))
        db.execute(delete(DatasetIssue).where(DatasetIssue.version_id == version_id))
        db.execute(delete(DatasetVersion).where(DatasetVersion.id == version_id))
        if not service.versions(db, one.dataset_id):
            db.execute(delete(Dataset).where(Dataset.id == one.dataset_id))


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
        one.claimed_at = now()
    return one


@contextmanager
def room() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    directory = scratch()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# -- validating --------------------------------------------------------------------------


def validate_version(version_id: str) -> None:
    """One stretch of a validation: the body of the task `workers.validate_dataset`."""
    if one := claim(version_id, VALIDATING):
        stretch(one)


def stretch(one: DatasetVersion) -> None:
    """Read on from the version's cursor, store the rows, and say so in the database."""
    try:
        source = storage.fetch(one.upload) / BODY
    except FileNotFoundError:  # on its way to the store, or lost: attempts are counted
        log.warning("the upload is not in the store", version=one.id)
        return
    cursor = validate.Cursor.from_json(one.cursor)
    with room() as directory:
        step = validate.step(source, cursor, directory, one.id, settings.max_row_mb * 2**20)
        if step.written.rows:
            storage.move(directory, step.written.artefact)
    if apply(one, step):
        clear(one.dataset_id)
    elif step.written.rows:
        drop(step.written.artefact)


def apply(start: DatasetVersion, step: validate.Step) -> bool:
    """Write what a stretch found. False if somebody else did, or nobody wants it any more."""
    with transaction() as db:
        one = db.get(DatasetVersion, start.id, with_for_update=True)
        if one is None or one.status != VALIDATING or one.cursor != start.cursor:
            return False
        number = one.error_count + one.warning_count
        found = [
            vars(issue) | {"version_id": one.id, "number": number + at}
            for at, issue in enumerate(step.issues, start=1)
        ]
        if found:
            db.execute(insert(DatasetIssue), found)
        one.format = step.cursor.format
        if rows := step.written.rows:
            one.segments = [*one.segments, {"artefact": step.written.artefact, "rows": rows}]
            one.rows += rows
        errors = sum(issue.level == "error" for issue in step.issues)
        one.error_count += errors
        one.warning_count += len(step.issues) - errors
        if one.error_count > validate.MAX_ISSUES:
            one.rows = 0
            switch(db, one, FAILED, error=refusal(db, one, TOO_MANY, "file.too_many_errors"))
        elif not step.done:
            one.cursor, one.claimed_at, one.attempts = step.cursor.to_json(), None, 0
            service.nudge(db, one)
        elif not one.rows:
            switch(db, one, FAILED, error=refusal(db, one, NO_GOOD_ROWS, "file.no_rows"))
        else:
            switch(db, one, DRAFT)
    return True


def refusal(db: Session, one: DatasetVersion, message: str, code: str) -> dict[str, Any]:
    """Why the whole file is refused, with its first problem: {code, message, params}."""
    first = service.issues(db, one.id, level="error", limit=1)
    if not first:
        return {"code": code, "message": NO_ROWS, "params": {}}
    params = {
        "line": first[0].line,
        "why": {"message": first[0].message, "params": first[0].params},
    }
    if message == TOO_MANY:
        params["most"] = validate.MAX_ISSUES
    return {"code": code, "message": message, "params": params}


# -- publishing --------------------------------------------------------------------------


def publish(
    who: Principal, dataset_id: str, *, which: str = "", skip_invalid: bool = False
) -> DatasetVersion:
    """Freeze a draft; a large one is `publishing` when this returns. `.dataset` is loaded."""
    with transaction() as db:
        draft = service.publish(db, who, dataset_id, which=which, skip_invalid=skip_invalid)
        if small := draft.bytes <= INLINE_BYTES:
            draft.claimed_at = now()
        else:
            service.nudge(db, draft)
    if small:
        freeze(draft)
    with transaction() as db:
        return service.version(db, who.workspace_id, dataset_id, draft.id)


def publish_version(version_id: str) -> None:
    """One segment of a publication: the body of the task `workers.publish_dataset`."""
    if one := claim(version_id, PUBLISHING):
        freeze(one)


def freeze(one: DatasetVersion) -> None:
    """Read the next segment back and add it to the hash; after the last, the version is fixed.

    What is published is thus what the store really holds.
    """
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
            return
        if rows != segment["rows"]:
            held.rows = 0
            switch(db, held, FAILED, error=LOST)
        elif at + 1 < len(one.segments):
            held.cursor = {"segment": at + 1, "digest": digest}
            held.claimed_at, held.attempts = None, 0
            service.nudge(db, held)
        else:
            held.content_hash, held.published_at = digest, now()
            switch(db, held, PUBLISHED)


# -- clearing ----------------------------------------------------------------------------


def clear(dataset_id: str) -> None:
    """Remove the files that nothing needs: the body of the task `workers.clear_dataset`.

    These are uploads that are done with, and the rows of failed versions and deleted datasets.
    """
    with transaction() as db:
        dataset = db.get(Dataset, dataset_id)
        gone = dataset is None or dataset.deleted_at is not None
        found = service.versions(db, dataset_id)
    for one in found:
        rows = one.segments if gone or one.status == FAILED else []
        upload = one.upload if one.status != VALIDATING else ""
        for segment in rows:
            drop(segment["artefact"])
        if upload:
            storage.delete(upload)
        if rows or upload:
            with transaction() as db:
                held = db.get(DatasetVersion, one.id, with_for_update=True)
                if held is not None:
                    held.upload = "" if upload else held.upload
                    held.segments = [] if rows else held.segments


def drop(artefact: str) -> None:
    """Delete a segment, unless a version that can be used has it."""
    with transaction() as db:
        used = (
            select(DatasetVersion.id)
            .join(DatasetVersion.dataset)
            .where(
                DatasetVersion.segments.contains([{"artefact": artefact}]),
                DatasetVersion.status != FAILED,
                Dataset.deleted_at.is_(None),
            )
        )
        if db.scalar(used.limit(1)):
            return
    storage.delete(artefact)
