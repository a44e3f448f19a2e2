"""What stays of jobs that are over, and for how long: checkpoints, run directories, logs.

A node tells what stands in its run directories (`told`); what has to go by the platform's settings is
decided here, from rows. The rows of its checkpoints go first, in that transaction, then the node
removes the files. A node that is killed in between tells the same again and is told the same.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from app.accounts import acting, audit, platform
from app.accounts.auth import Principal
from app.cluster import service as cluster
from app.cluster.tables import Lease
from app.db import now
from app.errors import N_
from app.jobs import service
from app.jobs.states import FINAL, note
from app.jobs.tables import Job, JobCheckpoint, JobFiles, JobLog

PIECE = 50  # jobs of a node, or logs, that go in one transaction
MINUTE = 60.0  # seconds between two looks at logs
CLEARED = N_("Cleared away on node %(node)s: %(bytes)s bytes, checkpoints of %(count)s steps.")
LOG_CLEARED = N_("Its log was cleared away.")
looked = 0.0  # when this process last looked for logs that go


@dataclass(frozen=True)
class Standing:
    """What stands of a job on a node: bytes by step of its checkpoints, and of all else."""

    job_id: str
    checkpoints: dict[int, int]
    others: int


@dataclass(frozen=True)
class Going:
    """What a node has to remove. `others`: all that is no checkpoint and that publishing one does
    not need; `whole`: that as well, so nothing is left.
    """

    job_id: str
    steps: list[int]
    others: bool
    whole: bool


@dataclass(frozen=True)
class Told:
    """The answer to a node. `cache_gb` 0: what its own environment says."""

    going: list[Going]
    cache_gb: int


@dataclass(frozen=True)
class Due:
    """What goes of a job on a node by the settings."""

    job: Job
    files: JobFiles
    steps: list[int]
    others: bool
    whole: bool
    bytes: int = field(default=0)


# -- what a person does ------------------------------------------------------------------


def keep(db: Session, who: Principal, job_id: str, *, wanted: bool) -> Job:
    """Whether nothing of the job is ever cleared away by itself. Raises NotFound."""
    job = service.locked(db, who.workspace_id, job_id)
    job.keep = wanted
    return job


# -- what a node does --------------------------------------------------------------------


def told(db: Session, node_id: str, standing: list[Standing]) -> Told:
    """All that stands in the run directories of a node. What of it goes now, a bounded piece: its
    rows are gone when this is committed.
    """
    cluster.lock(db)  # before rows of jobs, and against who wants one of these checkpoints just now
    record(db, node_id, standing)
    found = due(db, JobFiles.node_id == node_id)[:PIECE]
    for one in found:
        let_go(db, one)
    going = [Going(one.job.id, one.steps, one.others, one.whole) for one in found]
    return Told(going, platform.read(db).retention.cache_gb)


def record(db: Session, node_id: str, standing: list[Standing]) -> None:
    """For the overview. A node speaks of jobs that it had, and of no others."""
    ids = [one.job_id for one in standing]
    had = select(Lease.owner_id).where(Lease.owner_kind == "job", Lease.node_id == node_id)
    own = Job.id.in_(ids) & or_(Job.node_id == node_id, Job.id.in_(had))
    known = set(db.scalars(select(Job.id).where(own)))
    rows = {
        row.job_id: row for row in db.scalars(select(JobFiles).where(JobFiles.node_id == node_id))
    }
    for one in standing:
        if one.job_id in known:
            row = rows.pop(one.job_id, None) or JobFiles(job_id=one.job_id, node_id=node_id)
            row.checkpoints = {str(step): size for step, size in one.checkpoints.items()}
            row.others, row.told_at = one.others, now()
            db.add(row)
    for gone in rows.values():
        db.delete(gone)
    db.flush()


def let_go(db: Session, one: Due) -> None:
    """The rows of what goes; said once in the job's events and in the audit log, as the system."""
    db.execute(
        delete(JobCheckpoint).where(
            JobCheckpoint.job_id == one.job.id,
            JobCheckpoint.node_id == one.files.node_id,
            JobCheckpoint.step.in_(one.steps),
            JobCheckpoint.state.in_(("kept", "failed")),
        )
    )
    going = {"steps": one.steps, "others": one.others}
    if one.files.going == going:
        return  # told before: the node was killed, or cannot remove it
    one.files.going = going
    params = {"node": one.files.node_id, "bytes": one.bytes, "count": len(one.steps)}
    note(db, one.job, "cleared", CLEARED, params)
    with acting.as_one(acting.Acting()):
        audit.note(
            db, "clear", "job", one.job.id, name=one.job.name, workspace_id=one.job.workspace_id,
            before={"node": one.files.node_id, "bytes": one.bytes, "checkpoints": one.steps},
        )  # fmt: skip


# -- what goes ---------------------------------------------------------------------------


def due(db: Session, *where: ColumnElement[bool]) -> list[Due]:
    """What goes now of jobs that are over, by the settings; the first to end first."""
    wanted = platform.read(db).retention
    soonest = now() - timedelta(days=min(wanted.checkpoint_days, wanted.run_days))
    pairs = db.execute(
        select(Job, JobFiles)
        .join(JobFiles, JobFiles.job_id == Job.id)
        .where(Job.state.in_(FINAL), Job.finished_at <= soonest, ~Job.keep, *where)
        .order_by(Job.finished_at, Job.id, JobFiles.node_id)
    ).all()
    ids = {job.id for job, _ in pairs}
    rows: dict[str, list[JobCheckpoint]] = {}
    for row in db.scalars(select(JobCheckpoint).where(JobCheckpoint.job_id.in_(ids))):
        rows.setdefault(row.job_id, []).append(row)
    awaited = set(db.scalars(select(Job.start).where(Job.start != "", Job.state.not_in(FINAL))))
    found = (choose(wanted, job, files, rows.get(job.id, []), awaited) for job, files in pairs)
    return [one for one in found if one]


def choose(
    wanted: platform.Retention,
    job: Job,
    files: JobFiles,
    rows: Sequence[JobCheckpoint],
    awaited: set[str | None],
) -> Due | None:
    """What goes of one job on one node. What is being published, and what another job waits to start
    from, stays whatever the settings say.
    """
    assert job.finished_at
    steps = {int(step) for step in files.checkpoints}
    publishing = {row.step for row in rows if row.state == "publishing"}
    stays = steps
    if over(job.finished_at, wanted.checkpoint_days):
        stays = steps if wanted.checkpoints == "all" else publishing & steps
        stays = stays | {step for step in steps if f"{job.id}/checkpoint-{step}" in awaited}
        if wanted.checkpoints == "few":
            stays |= last_and_best(rows, steps)
    others = over(job.finished_at, wanted.run_days) and not publishing
    whole = others and not stays
    goes = sorted(steps - stays)
    size = sum(int(files.checkpoints[str(step)]) for step in goes) + (files.others if others else 0)
    if not (goes or whole or (others and files.others)):
        return None
    return Due(job, files, goes, others, whole, size)


def over(at: datetime, days: int) -> bool:
    return at <= now() - timedelta(days=days)


def last_and_best(rows: Iterable[JobCheckpoint], steps: set[int]) -> set[int]:
    """The newest that is complete, and the one of the lowest validation loss."""
    there = [row for row in rows if row.step in steps]
    measured = [row for row in there if row.eval_loss is not None]
    last = max((row.step for row in there), default=max(steps, default=0))
    best = min(measured, key=lambda row: (row.eval_loss, row.step), default=None)
    return ({last} | ({best.step} if best else set())) & steps


# -- logs --------------------------------------------------------------------------------


def old_logs(db: Session, most: int = PIECE) -> list[tuple[Job, int]]:
    """Jobs whose logs go now, and the bytes of each."""
    days = platform.read(db).retention.log_days
    if not days:
        return []
    old = (
        select(Job)
        .where(
            Job.state.in_(FINAL),
            Job.finished_at <= now() - timedelta(days=days),
            ~Job.keep,
            select(JobLog.job_id).where(JobLog.job_id == Job.id).exists(),
        )
        .order_by(Job.finished_at, Job.id)
        .limit(most)
    )
    jobs = list(db.scalars(old))
    size = func.sum(func.octet_length(JobLog.data))
    sizes = select(JobLog.job_id, size).where(JobLog.job_id.in_([job.id for job in jobs]))
    found = {job_id: int(total) for job_id, total in db.execute(sizes.group_by(JobLog.job_id))}
    return [(job, found.get(job.id, 0)) for job in jobs]


def clear_logs(db: Session) -> None:
    """A step of the sweep: logs whose days are over, a bounded piece each minute."""
    global looked
    if time.monotonic() - looked < MINUTE and looked:
        return
    looked = time.monotonic()
    for job, size in old_logs(db):
        db.execute(delete(JobLog).where(JobLog.job_id == job.id))
        note(db, job, "cleared", LOG_CLEARED, {})
        audit.note(
            db, "clear", "job", job.id, name=job.name, workspace_id=job.workspace_id,
            before={"log": size},
        )  # fmt: skip
