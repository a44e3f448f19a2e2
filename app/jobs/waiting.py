"""Why a job waits, in a word and in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.cluster.labels import written
from app.cluster.tables import Lease, Node, Request
from app.db import now
from app.errors import N_
from app.jobs.states import ACTIVE
from app.jobs.tables import Job
from app.quotas import service as quotas

UNREACHABLE = "unreachable"
LABELS = "labels"
PLACES = ("devices", "memory", "node")  # reasons that say there is no room anywhere

SENTENCES = {
    "quota": N_(
        "Waiting for quota: this workspace holds %(held)s of the %(limit)s devices that it may "
        "hold at once. The job starts by itself when one of them is given back."
    ),
    "devices": N_(
        "Waiting for a device: all that would do are held by other jobs and deployments, or kept for "
        "those that come before it. The job starts by itself when its turn comes."
    ),
    "memory": N_(
        "Waiting for memory: no device has enough of it free. "
        "The job starts by itself when there is."
    ),
    "node": N_(
        "Waiting for a node: none that could run this job is ready. "
        "It may be switched off, set aside for maintenance, or out of reach."
    ),
    "member_quota": N_(
        "Waiting for quota: you hold all that you may hold at once in this workspace. "
        "The job starts by itself when something of yours ends."
    ),
    "model_quota": N_(
        "Waiting for quota: this workspace holds all the devices of this model that it may hold at "
        "once. The job starts by itself when one of them is given back."
    ),
    "member_model_quota": N_(
        "Waiting for quota: you hold all the devices of this model that you may hold at once in this "
        "workspace. The job starts by itself when one of them is given back."
    ),
    "jobs_quota": N_(
        "Waiting for another job to end: this workspace runs as many jobs as it may run at once. "
        "The job starts by itself then."
    ),
    "member_jobs_quota": N_(
        "Waiting for another job of yours to end: you run as many as you may run at once in this "
        "workspace. The job starts by itself then."
    ),
    "preempting": N_(
        "Waiting for training of a lower priority to save a checkpoint and make room. "
        "That takes about a minute."
    ),
    "maintenance": N_(
        "Waiting for the end of the platform's maintenance: nothing new is started meanwhile. "
        "The job starts by itself afterwards."
    ),
    "checkpoint": N_(
        "Waiting for the checkpoint that it starts from: its files are being put into the store. "
        "The job starts by itself when they are there."
    ),
    LABELS: N_(
        "Waiting for a node with the labels %(labels)s: none that could run this job is free. "
        "The job starts by itself when there is one."
    ),
    UNREACHABLE: N_(
        "Node %(node)s has not been heard of for %(minutes)s minutes. What runs there may well go "
        "on; this page catches up once the node is back."
    ),
}


def reasons(db: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """Job id → quota, devices, memory, node or checkpoint (what it waits for), unreachable (its node is
    silent), or what its last change of state said; "" where there is nothing to say.
    """
    found = {
        job.id: job.reason if job.state != "queued" else "checkpoint" if job.start else ""
        for job in jobs
    }
    queued = [job.id for job in jobs if job.state == "queued"]
    if queued:
        rows = db.execute(
            select(Request.owner_id, Request.reason).where(
                Request.owner_kind == "job", Request.owner_id.in_(queued), Request.reason != "new"
            )
        )
        found.update((owner_id, reason) for owner_id, reason in rows)
    active = {job.id: job.node_id for job in jobs if job.state in ACTIVE}
    if active:
        nodes = db.scalars(select(Node).where(Node.id.in_(set(active.values()))))
        silent = {node.id for node in nodes if cluster.unreachable(node)}
        found.update((job_id, UNREACHABLE) for job_id, node in active.items() if node in silent)
    return found


@dataclass(frozen=True)
class Wait:
    """Why a job waits, where it stands among all who do, and when it may be expected to start: an
    estimate. None: it is not known yet, or nobody can tell.
    """

    reason: str
    position: int | None
    queue: int
    starts_at: datetime | None


def waits(db: Session, jobs: Sequence[Job]) -> dict[str, Wait]:
    """Job id → how it waits, of those that have asked for devices and have none."""
    return waits_of(db, "job", [job.id for job in jobs if job.state == "queued"])


def waits_of(db: Session, owner_kind: str, owner_ids: Sequence[str]) -> dict[str, Wait]:
    """The same by owner."""
    if not owner_ids:
        return {}
    rows = db.scalars(
        select(Request)
        .where(
            Request.owner_kind == owner_kind,
            Request.owner_id.in_(owner_ids),
            Request.granted_at.is_(None),
        )
        .execution_options(populate_existing=True)
    ).all()
    many = select(func.count()).select_from(Request).where(Request.granted_at.is_(None))
    count = db.scalar(many) or 0 if rows else 0
    return {
        row.owner_id: Wait(row.reason, row.position, count, expected(row.starts_at)) for row in rows
    }


def expected(at: datetime | None) -> datetime | None:
    """A time that has passed says nothing any more."""
    return at if at and at > now() else None


def sentence(db: Session, job: Job, reason: str) -> tuple[str, dict[str, Any]] | None:
    """The msgid and its params for a reason of `reasons`; None if it needs no explaining."""
    if reason not in SENTENCES:
        return None
    if reason in PLACES and job.labels:
        return SENTENCES[LABELS], {"labels": written(job.labels)}
    params: dict[str, Any] = {}
    if reason == "quota":
        params["limit"] = quotas.limit(db, job.workspace_id)
        if params["limit"] is None:  # lifted just now
            return None
        params["held"] = db.scalar(
            select(func.count())
            .select_from(Lease)
            .where(Lease.workspace_id == job.workspace_id, Lease.released_at.is_(None))
        )
    elif reason == UNREACHABLE:
        node = db.get_one(Node, job.node_id)
        params["node"] = node.id
        params["minutes"] = int((now() - node.seen_at).total_seconds() // 60)
    return SENTENCES[reason], params
