"""A run makes room for work of a higher priority: a checkpoint, back to its place, on from there."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.errors import N_
from app.jobs import runs
from app.jobs.states import note, switch
from app.jobs.tables import Job

PREEMPTED = runs.PREEMPTED
ROOM = N_(
    "Makes room for work of a higher priority: it saves a checkpoint, waits again at its old "
    "place, and goes on from there."
)
SAVED = text(
    """
    UPDATE requests r SET saved_at = c.at
    FROM (
        SELECT job_id, max(created_at) AS at FROM job_checkpoints
        WHERE created_at > now() - interval '10 minutes' GROUP BY job_id
    ) c
    WHERE r.owner_kind = 'job' AND r.owner_id = c.job_id
      AND r.granted_at IS NOT NULL AND r.saved_at IS DISTINCT FROM c.at
    """
)


def tell_saved(db: Session) -> None:
    """The scheduler knows what would be lost if a run had to go. Under the cluster's lock."""
    db.execute(SAVED)


def preempt(db: Session, told: cluster.Told) -> bool:
    """Ask a run to save a checkpoint and to go. False if it is going anyway, or gone.

    In the transaction of `cluster.decide`; telling it twice is telling it once.
    """
    job = runs.locked(db, told.owner_id)
    if job is None or job.state not in ("scheduled", "running"):
        return False
    switch(db, job, "pausing", reason=PREEMPTED, message=ROOM)
    other = db.get(Job, told.for_id) if told.for_kind == "job" else None
    if other is not None and other.workspace_id == job.workspace_id:
        note(
            db,
            job,
            PREEMPTED,
            N_("It is “%(name)s” that needs the devices, and has a higher priority."),
            {"name": other.name, "job": other.id},
        )
    return True
