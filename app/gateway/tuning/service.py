"""Tuning jobs of OpenAI's and DashScope's clients: start, find, stop, go on.

Their files are looked at in the background (`preparing`); until then a row stands here alone, and
afterwards `jobs.service` does what is asked.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.db import now
from app.errors import N_, Conflict, Invalid, NotFound
from app.gateway.files import service as files
from app.gateway.tuning import names
from app.gateway.tuning.schemas import FineTuningCreate, Integration
from app.gateway.tuning.tables import TuningJob
from app.jobs import reporters
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.queue import send

PREPARE = "workers.prepare_tuning"
METHODS = {"supervised": "sft", "dpo": "dpo"}  # OpenAI's → our stage
NO_JOB = N_("Could not find fine tune: %(id)s")
OVER = N_("This job is over (%(state)s), so there is nothing to do.")


@dataclass(frozen=True)
class Both:
    """What was asked for, and the job of ours, once there is one."""

    row: TuningJob
    job: Job | None

    @property
    def state(self) -> str:
        """A state of our jobs, or validating."""
        return self.job.state if self.job else self.row.state


# -- starting ----------------------------------------------------------------------------


def create(db: Session, who: Principal, body: FineTuningCreate) -> TuningJob:
    """OpenAI's. Raises NotFound (model or file), Invalid."""
    kind = body.method.type if body.method else "supervised"
    if kind not in METHODS:
        raise Invalid(
            N_("The method %(method)s is not available here. These are: %(known)s."),
            code="method_not_available",
            field="method",
            method=kind,
            known=", ".join(METHODS),
        )
    return add(
        db,
        who,
        api="openai",
        model=body.model,
        stage=METHODS[kind],
        method="lora",
        training_files=[body.training_file],
        validation_files=[body.validation_file] if body.validation_file else [],
        asked=asked_of(body, kind),
        suffix=(body.suffix or "").strip(),
        name=(body.suffix or "").strip(),
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        integrations=integrations_of(db, who, body.integrations or []),
        **({"meta": body.metadata} if body.metadata is not None else {}),
    )


def asked_of(body: FineTuningCreate, kind: str) -> dict[str, Any]:
    """The hyperparameters, of the method or at the top, where they stood once."""
    chosen = getattr(body.method, kind) if body.method else None
    if chosen is not None:
        return dict(chosen.hyperparameters.model_dump())
    usual = {"beta": "auto"} if kind == "dpo" else {}
    old = body.hyperparameters.model_dump() if body.hyperparameters else {}
    return dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto") | (
        usual | old
    )


def integrations_of(db: Session, who: Principal, asked: list[Integration]) -> list[dict[str, Any]]:
    """Raises Invalid where no node has an account."""
    if asked and "wandb" not in reporters.offered(db, who):
        raise Invalid(
            N_(
                "Weights & Biases is not set up here: no node has an account for it "
                "(WANDB_API_KEY), so leave the integration out or ask an administrator."
            ),
            code="integration_not_available",
            field="integrations",
        )
    return [one.model_dump() for one in asked]


def add(db: Session, who: Principal, *, model: str, **columns: Any) -> TuningJob:
    """A row whose files will be looked at. Raises NotFound and Invalid, with OpenAI's fields."""
    found = names.model(db, who, model)
    for field in ("training_files", "validation_files"):
        for wanted in columns[field]:
            check_file(db, who, wanted, field[:-1])
    row = TuningJob(
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        model=model,
        model_id=found.id,
        **columns,
    )
    db.add(row)
    db.flush()
    send(db, PREPARE, row.id)
    return row


def check_file(db: Session, who: Principal, wanted: str, field: str) -> None:
    try:
        file = files.get(db, who.workspace_id, wanted)
    except NotFound as error:
        error.field = field
        raise
    if file.purpose != "fine-tune":
        raise Invalid(
            N_("The file %(id)s has the purpose '%(purpose)s', and tuning needs 'fine-tune'."),
            code="invalid_file_purpose",
            field=field,
            id=file.id,
            purpose=file.purpose,
        )


# -- looking -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, wanted: str, *, lock: bool = False) -> Both:
    """Raises NotFound, also for another workspace's."""
    row = db.get(TuningJob, wanted, with_for_update=lock, populate_existing=lock)
    if row is None or row.workspace_id != workspace_id or row.deleted_at:
        raise NotFound(
            NO_JOB, code="fine_tune_not_found", field="fine_tuning_job_id", id=wanted[:100]
        )
    return Both(row, db.get(Job, row.job_id) if row.job_id else None)


def listed(
    db: Session,
    workspace_id: str,
    *,
    after: str = "",
    limit: int = 20,
    metadata: dict[str, str] | None = None,
    without_metadata: bool = False,
) -> tuple[list[Both], bool]:
    """The newest first, those that follow the job `after`; and whether there are more."""
    query = (
        select(TuningJob, Job)
        .outerjoin(Job, Job.id == TuningJob.job_id)
        .where(TuningJob.workspace_id == workspace_id, TuningJob.deleted_at.is_(None))
    )
    if after:
        last = get(db, workspace_id, after).row
        place = tuple_(TuningJob.created_at, TuningJob.id)
        query = query.where(place < (last.created_at, last.id))
    if metadata:
        query = query.where(TuningJob.meta.contains(metadata))
    if without_metadata:
        query = query.where(TuningJob.meta.is_(None))
    query = query.order_by(TuningJob.created_at.desc(), TuningJob.id.desc()).limit(limit + 1)
    found = [Both(row, job) for row, job in db.execute(query)]
    return found[:limit], len(found) > limit


def page(
    db: Session,
    workspace_id: str,
    *,
    model: str = "",
    states: set[str] | None = None,
    offset: int,
    limit: int,
) -> tuple[list[Both], int]:
    """A page of them, the newest first, and how many there are. `states` are those of `Both`."""
    query = (
        select(TuningJob, Job)
        .outerjoin(Job, Job.id == TuningJob.job_id)
        .where(TuningJob.workspace_id == workspace_id, TuningJob.deleted_at.is_(None))
    )
    if model:
        query = query.where(TuningJob.model == model)
    if states is not None:
        query = query.where(func.coalesce(Job.state, TuningJob.state).in_(states))
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    query = query.order_by(TuningJob.created_at.desc(), TuningJob.id.desc())
    found = [Both(row, job) for row, job in db.execute(query.offset(offset).limit(limit))]
    return found, total


# -- stopping and going on ---------------------------------------------------------------


def cancel(db: Session, workspace_id: str, wanted: str) -> Both:
    """Stop for good; twice is once. Raises Conflict for one that has ended otherwise."""
    both = get(db, workspace_id, wanted, lock=True)
    if both.job:
        jobs.cancel(db, workspace_id, both.job.id)
    elif both.row.state == "validating":
        both.row.state, both.row.finished_at = "cancelled", now()
    elif both.row.state != "cancelled":
        raise Conflict(OVER, code="job_is_over", state=both.row.state)
    return both


def pause(db: Session, workspace_id: str, wanted: str) -> Both:
    both = get(db, workspace_id, wanted, lock=True)
    jobs.pause(db, workspace_id, started(both).id)
    return both


def resume(db: Session, workspace_id: str, wanted: str) -> Both:
    both = get(db, workspace_id, wanted, lock=True)
    jobs.resume(db, workspace_id, started(both).id)
    return both


def started(both: Both) -> Job:
    """Raises Conflict for what never was, or is not yet, a job of ours."""
    if both.job is None:
        if both.row.state == "validating":
            raise Conflict(
                N_("The files of this job are still being validated. Try again in a moment."),
                code="job_not_started",
            )
        raise Conflict(OVER, code="job_is_over", state=both.row.state)
    return both.job


def remove(db: Session, workspace_id: str, wanted: str) -> Both:
    """DashScope's delete: the job is not listed any more; the model that it made stays.

    Raises Conflict while it may still run.
    """
    both = get(db, workspace_id, wanted, lock=True)
    if both.state not in ("succeeded", "failed", "cancelled"):
        raise Conflict(
            N_("This job is %(state)s: cancel it first, or wait until it is over."),
            code="job_not_over",
            state=both.state,
        )
    both.row.deleted_at = now()
    return both
