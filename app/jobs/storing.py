"""Checkpoints travel: a node puts a job's newest into the store, and another goes on from it."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from app import storage
from app.cluster import service as cluster
from app.cluster.tables import Node
from app.config import settings
from app.db import now
from app.jobs import resuming, runs
from app.jobs.states import FINAL
from app.jobs.tables import Job, JobCheckpoint, StoredCheckpoint

CADENCE = timedelta(minutes=15)  # of a job that runs
RESTING = ("queued", "paused")


@dataclass(frozen=True)
class Due:
    """A checkpoint that is to be in the store."""

    job_id: str
    fence: int
    step: int

    @property
    def artefact(self) -> str:
        return resuming.artefact(self.job_id, self.fence, self.step)


def useful(db: Session) -> bool:
    """A bucket outlives every machine; a directory is of use to a second machine."""
    if storage.local_root() is None:
        return True
    alive = select(func.count()).select_from(Node).where(Node.dead_at.is_(None))
    return bool(settings.store) and (db.scalar(alive) or 0) > 1


def due(db: Session, node_id: str, job_id: str | None = None) -> list[Due]:
    """What this node is to put there: of jobs that wait and have their newest checkpoint here, and
    from time to time of those that run here. Of the one job `job_id`, whatever it does.
    """
    if not useful(db):
        return []
    newest = (
        select(JobCheckpoint)
        .ext(distinct_on(JobCheckpoint.job_id))
        .join(Job, Job.id == JobCheckpoint.job_id)
        .where(Job.state.not_in(FINAL))
        .order_by(JobCheckpoint.job_id, JobCheckpoint.step.desc())
    )
    if job_id:
        newest = newest.where(Job.id == job_id)
    found = []
    for row in db.scalars(newest).all():
        if row.node_id != node_id:
            continue
        job, kept = db.get_one(Job, row.job_id), db.get(StoredCheckpoint, row.job_id)
        if kept and kept.step >= row.step:
            continue
        since = kept.created_at if kept else job.started_at
        late = job.node_id == node_id and since is not None and now() - since > CADENCE
        if job_id or job.state in RESTING or late:
            found.append(Due(row.job_id, row.fence, row.step))
    return found


def note(db: Session, job_id: str, fence: int, step: int) -> str | None:
    """It is in the store: the job may go on anywhere. The artefact that nobody needs any more: the
    one before, or this one where it comes too late.
    """
    cluster.lock(db)
    mine = resuming.artefact(job_id, fence, step)
    job = runs.locked(db, job_id)
    row = db.get(StoredCheckpoint, job_id, with_for_update=True, populate_existing=True)
    if job is None or job.state in FINAL or (row and row.step > step):
        return mine
    before = resuming.artefact(job_id, row.fence, row.step) if row else None
    if before == mine:
        return None
    row = row or StoredCheckpoint(job_id=job_id)
    row.fence, row.step, row.created_at = fence, step, now()
    db.add(row)
    db.flush()
    set_free(db, job)
    return before


def set_free(db: Session, job: Job) -> None:
    """A job that waits for the node of its checkpoints need not any more."""
    request = cluster.waiting(db, "job", job.id)
    if job.state != "queued" or request is None or request.granted_at or not request.node_id:
        return
    place = cluster.Place(request.created_at, request.preemptions)
    cluster.withdraw(db, "job", job.id)
    db.expunge(request)
    runs.ask_or_fail(db, job, place)
