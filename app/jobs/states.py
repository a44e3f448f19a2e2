"""The states of a job, the moves between them, and the one function that makes a move."""

from typing import Literal

from sqlalchemy.orm import Session

from app.alerts import service as alerts
from app.cluster import budgets
from app.datasets import service as datasets
from app.db import now
from app.errors import N_, Conflict
from app.jobs.data import versions_of
from app.jobs.tables import Job, JobEvent
from app.models import service as models

State = Literal[
    "queued",
    "scheduled",
    "running",
    "pausing",
    "paused",
    "cancelling",
    "cancelled",
    "failed",
    "succeeded",
]

MOVES: dict[str, set[str]] = {
    "queued": {"scheduled", "paused", "cancelled", "failed"},
    # A run may end before its start was recorded: a node can lose the database for a while.
    "scheduled": {"running", "queued", "pausing", "cancelling", "succeeded", "failed"},
    "running": {"queued", "pausing", "cancelling", "succeeded", "failed"},
    "pausing": {"paused", "queued", "cancelling", "succeeded", "failed"},
    "paused": {"queued", "cancelled"},
    "cancelling": {"cancelled"},
    "cancelled": set(),
    "failed": set(),
    "succeeded": set(),
}
FINAL = tuple(state for state, moves in MOVES.items() if not moves)
DRAINED = "drained"  # why it is pausing or queued: its node was to be empty
ACTIVE = ("scheduled", "running", "pausing", "cancelling")  # a node may have processes of it

MESSAGES = {
    "queued": N_("Waiting for a device."),
    "scheduled": N_("Got its devices on node %(node)s."),
    "running": N_("Started on node %(node)s."),
    "pausing": N_("Asked to pause: it saves a checkpoint and stops."),
    "paused": N_("Paused. It goes on from its last checkpoint."),
    "cancelling": N_("Asked to stop for good."),
    "cancelled": N_("Cancelled."),
    "failed": N_("Failed."),
    "succeeded": N_("Finished."),
}


def switch(db: Session, job: Job, state: str, reason: str = "", message: str | None = None) -> None:
    """Move `job`, whose row the caller has locked, and write the event. Raises Conflict.

    A final state lets go of the dataset versions and the model.
    """
    if state not in MOVES[job.state]:
        raise Conflict(N_("A job that is %(old)s cannot become %(new)s."), old=job.state, new=state)
    old, job.state, job.reason = job.state, state, reason
    if state == "running" and job.started_at is None:
        job.started_at = now()
    if state in (*FINAL, "paused"):
        budgets.drop(db, job.id)
    elif state in ("queued", "scheduled"):
        budgets.waits(db, job.id, state == "queued")
    if state in FINAL:
        job.finished_at = now()
        for version_id in sorted(versions_of(job)):
            datasets.unpin(db, version_id, "job", job.id)
        models.unpin(db, job.model_id, "job", job.id)
    if state == "failed":
        text = N_("Job %(name)s failed.")
        where = f"/jobs/{job.id}"
        alerts.raise_(
            db,
            "job_failed",
            job.id,
            text,
            {"name": job.name},
            workspace_id=job.workspace_id,
            link=where,
        )
    note(
        db,
        job,
        "state",
        message or MESSAGES[state],
        {"old": old, "new": state, "reason": reason, "node": job.node_id or ""},
    )


def note(db: Session, job: Job, kind: str, message: str, params: dict[str, object]) -> None:
    """An event of the job's present attempt. `message` is a msgid."""
    db.add(JobEvent(job_id=job.id, fence=job.fence, kind=kind, message=message, params=params))
    db.flush()
