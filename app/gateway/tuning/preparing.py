"""From the files of a tuning job to a job of ours: each file becomes a published dataset.

The body of a task and of a step of the sweep. A file that is large is validated and published by
the datasets' own tasks, in stretches; whoever looks at the job meanwhile finds it not ready yet and
comes back.
"""

import os
import shutil
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, principal_of
from app.datasets import service as datasets
from app.datasets import work
from app.datasets.files import room
from app.datasets.intake.upload import Upload
from app.datasets.states import DRAFT, FAILED, MAPPING, PUBLISHED
from app.datasets.tables import Dataset, DatasetIssue, DatasetVersion
from app.db import now
from app.errors import N_, Conflict, DomainError, Invalid, NotFound
from app.gateway.files import service as files
from app.gateway.files.tables import File
from app.gateway.tuning import auto
from app.gateway.tuning.service import PREPARE
from app.gateway.tuning.tables import TuningJob
from app.jobs import mixing
from app.jobs import service as jobs
from app.jobs.schemas import NAME, JobCreate
from app.queue import send, transaction
from app.uploads.service import BODY

log = structlog.get_logger()

LEAST = 10  # rows, as OpenAI has it
TOLD = 10  # problems that are told
STALE = timedelta(minutes=5)
ATTEMPTS = 5
PARAMS = {"dataset": "training_file", "datasets": "training_file", "validation": "validation_file"}
STOPPED = N_("The work on these files stopped unexpectedly several times.")
UNKNOWN = N_("Its rows have none of the known formats: each line needs the field “messages”.")
BAD_ROWS = N_("Invalid file format. Rows that cannot be used: %(count)s.")
BAD = {
    "training_file": N_("The job failed due to an invalid training file. %(why)s"),
    "validation_file": N_("The job failed due to an invalid validation file. %(why)s"),
}


class BadFile(Invalid):
    """A file that cannot be a dataset; `problems` are its first bad lines."""

    def __init__(self, file: File, field: str) -> None:
        assert file.error is not None
        super().__init__(
            file.error["message"], code=file.error["code"], field=field, **file.error["params"]
        )
        self.problems = file.error["problems"]


def prepare(row_id: str) -> None:
    """The body of the task `workers.prepare_tuning`. Nothing to do is fine."""
    row = claim(row_id)
    if row is None:
        return
    try:
        with transaction() as db:
            who = principal_of(db, row.workspace_id, row.user_id)
        found = {}
        for field, wanted in wanted_by(row):
            version = ready(who, wanted, field)
            if version is None:  # its own tasks are at it
                release(row_id)
                return
            found[field, wanted] = version
        start(row, who, found)
    except DomainError as error:
        refuse(row_id, error)


def resend(db: Session) -> None:
    """A step of the sweep: somebody shall look again at what waits for its files."""
    free = or_(TuningJob.claimed_at.is_(None), TuningJob.claimed_at < now() - STALE)
    waiting = select(TuningJob.id).where(TuningJob.state == "validating", free)
    for row_id in db.scalars(waiting.order_by(TuningJob.created_at).limit(100)):
        send(db, PREPARE, row_id)


def wanted_by(row: TuningJob) -> list[tuple[str, str]]:
    return [("training_file", one) for one in row.training_files] + [
        ("validation_file", one) for one in row.validation_files
    ]


# -- taking turns ------------------------------------------------------------------------


def claim(row_id: str) -> TuningJob | None:
    """The row, if its files are to be looked at and nobody is at it."""
    with transaction() as db:
        row = db.scalar(
            select(TuningJob)
            .where(TuningJob.id == row_id, TuningJob.state == "validating")
            .with_for_update(skip_locked=True)
        )
        if row is None or (row.claimed_at and row.claimed_at > now() - STALE):
            return None
        row.attempts += 1
        if row.attempts > ATTEMPTS:
            fail(row, {"code": "stopped", "message": STOPPED, "params": {}, "param": None})
            return None
        row.claimed_at = now()
    return row


def release(row_id: str) -> None:
    """Not ready yet, and nobody's fault."""
    with transaction() as db:
        row = db.get_one(TuningJob, row_id, with_for_update=True)
        row.claimed_at, row.attempts = None, 0


# -- a file ------------------------------------------------------------------------------


def ready(who: Principal, wanted: str, field: str) -> DatasetVersion | None:
    """The published version that a file has become; None while others are at it.

    Raises NotFound and BadFile.
    """
    with transaction() as db:
        try:
            file = files.get(db, who.workspace_id, wanted)
        except NotFound as error:
            error.field = field
            raise
        version = known(db, file)
    if file.error:
        raise BadFile(file, field)
    if version is None:
        version = take(who, file, field)
    if version.status == DRAFT and not version.error_count:
        try:
            version = work.publish(who, version.dataset_id, which=version.id)
        except Conflict:  # another job of the same file came first, and is at it
            return None
    if version.status in (DRAFT, MAPPING, FAILED):
        raise spoilt(file, version, field)
    return version if version.status == PUBLISHED else None


def known(db: Session, file: File) -> DatasetVersion | None:
    if file.version_id is None:
        return None
    return db.scalar(
        select(DatasetVersion)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(DatasetVersion.id == file.version_id, Dataset.deleted_at.is_(None))
    )


def take(who: Principal, file: File, field: str) -> DatasetVersion:
    """The file's rows as a new dataset. Raises BadFile if none of them can be used."""
    with room() as directory:
        place = directory / BODY
        try:
            os.link(files.path(file), place)
        except OSError:  # another disk
            shutil.copyfile(files.path(file), place)
        name = file.file_name.rsplit(".", 1)[0][: datasets.NAME_LENGTH]
        upload = Upload(directory, file.file_name, file.bytes, {"name": name})
        try:
            version = work.take(who, upload)
        except Invalid as error:
            raise remember(file, field, error.code, error.message, error.params, []) from None
    with transaction() as db:
        db.get_one(File, file.id).version_id = version.id
    return version


def spoilt(file: File, version: DatasetVersion, field: str) -> BadFile:
    """What is wrong with a file, remembered, so that its next job knows; its draft goes."""
    problems: list[DatasetIssue] = []
    code, message, params = "invalid_file_format", UNKNOWN, {}
    if version.status == FAILED and version.error:
        code, message, params = (version.error[one] for one in ("code", "message", "params"))
    elif version.status == DRAFT:
        message, params = BAD_ROWS, {"count": version.error_count}
        with transaction() as db:
            problems = datasets.issues(db, version.id, level="error", limit=TOLD)
    bad = remember(file, field, code, message, params, problems)
    work.discard(version.id)
    return bad


def remember(
    file: File,
    field: str,
    code: str,
    message: str,
    params: dict[str, Any],
    problems: list[DatasetIssue],
) -> BadFile:
    told = [
        {"line": one.line, "path": one.path, "message": one.message, "params": one.params}
        for one in problems
    ]
    found = {"code": code, "message": message, "params": params, "problems": told}
    with transaction() as db:
        held = db.get_one(File, file.id)
        held.error, held.version_id = found, None
    return BadFile(held, field)


# -- the job -----------------------------------------------------------------------------


def start(row: TuningJob, who: Principal, found: dict[tuple[str, str], DatasetVersion]) -> None:
    """The job of ours. Raises what `jobs.service.create` raises."""
    training = [found["training_file", one] for one in row.training_files]
    rows = sum(version.rows for version in training)
    if row.api == "openai" and rows < LEAST:
        raise Invalid(
            N_("Training file has %(count)s example(s), but must have at least %(least)s examples"),
            code="invalid_n_examples",
            field="training_file",
            count=rows,
            least=LEAST,
        )
    split = row.settings.get("split")
    if split:
        rows -= mixing.held_back(training[0].rows, split["split"], split["most"])
    resolved = auto.resolve(row.asked, row.stage, rows) if row.api == "openai" else {}
    given = auto.ours(resolved, row.stage, row.method) if resolved else {}
    given |= row.settings.get("hyperparameters", {}) | {"seed": row.seed}
    validation: Any = split
    if row.validation_files:
        validation = found["validation_file", row.validation_files[0]].id
    data: dict[str, Any] = {"dataset": training[0].id}
    if len(training) > 1:
        data = {"datasets": [{"dataset": version.id} for version in training]}
    with transaction() as db:
        held = db.get_one(TuningJob, row.id, with_for_update=True, populate_existing=True)
        if held.state != "validating":
            return
        body = JobCreate(
            name=held.name[:NAME],
            model=held.model_id,
            validation=validation,
            stage=held.stage,
            method=held.method,
            hyperparameters=auto.with_checkpoints(given, rows),
            report_to=["wandb"] if held.integrations else [],
            **data,
        )
        job = jobs.create(db, who, body)
        if held.integrations:
            job.report_as = {"wandb": held.integrations[0]["wandb"]}
        held.job_id, held.state, held.resolved = job.id, "started", resolved
        held.claimed_at = None


def refuse(row_id: str, error: DomainError) -> None:
    """It will never be a job of ours, and says why."""
    field = error.field or ""
    param = PARAMS.get(field.split(".")[0], field) or None
    why = error.kept()
    if param in BAD:
        told = {"message": error.message, "params": error.params}
        why |= {"message": BAD[param], "params": {"why": told}}
        why["problems"] = getattr(error, "problems", [])
    log.info("a tuning job is refused", job=row_id, code=error.code)
    with transaction() as db:
        row = db.get_one(TuningJob, row_id, with_for_update=True)
        if row.state == "validating":
            fail(row, why | {"param": param})


def fail(row: TuningJob, error: dict[str, Any]) -> None:
    row.state, row.error, row.finished_at, row.claimed_at = "failed", error, now(), None
