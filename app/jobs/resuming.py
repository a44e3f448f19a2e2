"""From which checkpoint a job may go on anywhere: the newest that stands in the store."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import storage
from app.jobs.states import FINAL
from app.jobs.tables import Job, JobCheckpoint, StoredCheckpoint

CLEARED = 20  # artefacts removed in one sweep, at most


def artefact(job_id: str, fence: int, step: int) -> str:
    """Where in the store it is."""
    return f"checkpoints/{job_id}-{fence}-{step}"


def stored(db: Session, job_id: str) -> tuple[str, int] | None:
    """(artefact, step) of what any node may go on from."""
    row = db.get(StoredCheckpoint, job_id)
    return (artefact(job_id, row.fence, row.step), row.step) if row else None


def is_free(db: Session, job_id: str) -> bool:
    """Whether it may go on anywhere with nothing lost: its newest checkpoint stands in the store."""
    row = db.get(StoredCheckpoint, job_id)
    if row is None:
        return False
    newest = select(func.max(JobCheckpoint.step)).where(JobCheckpoint.job_id == job_id)
    return row.step >= (db.scalar(newest) or 0)


def clear(db: Session) -> None:
    """Nobody goes on from a checkpoint of a job that is over."""
    over = (
        select(StoredCheckpoint)
        .join(Job, Job.id == StoredCheckpoint.job_id)
        .where(Job.state.in_(FINAL))
        .limit(CLEARED)
    )
    for row in db.scalars(over).all():
        storage.delete(artefact(row.job_id, row.fence, row.step))
        db.delete(row)
