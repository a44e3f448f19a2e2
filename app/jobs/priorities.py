"""How urgent a job is, who may say so, and saying it while the job waits."""

from typing import Literal, get_args

from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.cluster import fair
from app.cluster import service as cluster
from app.errors import N_, Forbidden, Invalid
from app.jobs.tables import Job

Priority = Literal["low", "normal", "high", "urgent"]
PRIORITIES: tuple[str, ...] = get_args(Priority)
PLATFORM = N_("Urgent is for platform administrators.")
WORKSPACE = N_("This priority is for administrators of the workspace: ask one of them.")
NOW = {
    "low": N_("Its priority is low now."),
    "normal": N_("Its priority is normal now."),
    "high": N_("Its priority is high now."),
    "urgent": N_("Its priority is urgent now."),
}


def highest(db: Session, who: Principal) -> int:
    """Members: normal, or what is set for their workspace; its admins: high; platform admins: any."""
    if who.is_platform_admin:
        return cluster.URGENT
    if who.role in ("admin", "owner"):
        return cluster.HIGH
    return fair.of(db, who.workspace_id).priority


def allowed(db: Session, who: Principal) -> list[str]:
    """The ones to choose from, the lowest first."""
    return list(PRIORITIES[: highest(db, who) + 1])


def check(db: Session, who: Principal, priority: str) -> int:
    """Its number. Raises Invalid, and Forbidden."""
    if priority not in PRIORITIES:
        raise Invalid(N_("There is no such priority."), field="priority")
    number = PRIORITIES.index(priority)
    most = highest(db, who)
    if number > most:
        urgent = number == cluster.URGENT
        raise Forbidden(PLATFORM if urgent else WORKSPACE, field="priority")
    return number


def hurry(db: Session, job_id: str, priority: int) -> None:
    """Whoever waits for the job is this urgent: so is the job, as long as it waits itself."""
    job = db.get_one(Job, job_id)
    if job.priority < priority and cluster.prioritise(db, "job", job_id, priority):
        job.priority = priority
