"""What runs left in the store and no row names: a node died between putting it there and saying so.

Only of jobs that are over, and only what is a day old: what a node is about to report stays. Things
whose job is unknown here are nobody's business: another database may know it.
"""

import re
import time
from datetime import timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.accounts import audit
from app.db import now
from app.jobs import resuming
from app.jobs.states import FINAL
from app.jobs.tables import Job, JobCheckpoint, StoredCheckpoint
from app.models.tables import Model
from app.queue import send, transaction

log = structlog.get_logger()

OLD = timedelta(days=1)
HOUR = 3600.0  # seconds between two looks
KINDS = ("checkpoints", "models", "exports", "benchmarks")
OF_A_RUN = re.compile(r"[a-z]+/(job_[A-Za-z0-9]+)-(\d{1,9})(?:-(?:step-)?\d{1,9})?")
looked = 0.0  # when this process last asked for a look


def resend(db: Session) -> None:
    """A step of the sweep: have somebody look, each hour."""
    global looked
    if time.monotonic() - looked < HOUR and looked:
        return
    looked = time.monotonic()
    send(db, "workers.clear_store")


def clear() -> list[str]:
    """Remove them: the body of the task `workers.clear_store`. What went."""
    gone = []
    before = now() - OLD
    for kind in KINDS:
        storage.forget_partial(kind, before)
        for artefact, at in storage.standing(kind):
            match = OF_A_RUN.fullmatch(artefact)
            if match and at < before and remove(artefact, match[1], int(match[2])):
                gone.append(artefact)
    return gone


def remove(artefact: str, job_id: str, fence: int) -> bool:
    """Whether it went. The job is locked meanwhile, so nobody begins to name it."""
    with transaction() as db:
        job = db.get(Job, job_id, with_for_update=True)
        if job is None or job.state not in FINAL or named(db, artefact, job, fence):
            return False
        storage.delete(artefact)
        audit.note(
            db, "clear", "job", job.id, name=job.name, workspace_id=job.workspace_id,
            before={"artefact": artefact},
        )  # fmt: skip
    log.info("removed what no row names", artefact=artefact)
    return True


def named(db: Session, artefact: str, job: Job, fence: int) -> bool:
    """Whether a row says that this is something, or is about to."""
    kind = artefact.partition("/")[0]
    if kind == "checkpoints":
        row = db.get(StoredCheckpoint, job.id)
        return row is not None and resuming.artefact(job.id, row.fence, row.step) == artefact
    if kind == "models":
        model = select(Model.id).where(Model.artefact == artefact).limit(1)
        publishing = select(JobCheckpoint.step).where(
            JobCheckpoint.job_id == job.id, JobCheckpoint.state == "publishing"
        )
        return db.scalar(model) is not None or db.scalar(publishing.limit(1)) is not None
    return job.state == "succeeded" and fence == job.fence
