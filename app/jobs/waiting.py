"""Why a job waits, in a word and in a sentence."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.cluster.tables import Lease, Node, Request
from app.db import now
from app.errors import N_
from app.jobs.states import ACTIVE
from app.jobs.tables import Job
from app.quotas import service as quotas

UNREACHABLE = "unreachable"

SENTENCES = {
    "quota": N_(
        "Waiting for quota: this workspace holds %(held)s of the %(limit)s devices that it may "
        "hold at once. The job starts by itself when one of them is given back."
    ),
    "devices": N_(
        "Waiting for a device: all that would do are held by other jobs and deployments. "
        "The job starts by itself when one is given back."
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
    "kept": N_(
        "Waiting in the queue: the devices that are free are kept for jobs that come before it. "
        "It starts by itself when its turn comes."
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


def position(db: Session, job: Job) -> tuple[int, int] | None:
    """Its place in the queue and how many wait in all, whoever they belong to; None once it has its
    devices. In the order in which they would be decided: the workspace that holds least first,
    then priority, then age.
    """
    waiting = db.execute(
        select(Request.owner_id, Request.workspace_id, Request.priority)
        .where(Request.granted_at.is_(None))
        .order_by(Request.created_at, Request.id)
    ).all()
    held: dict[str, int] = dict(
        db.execute(
            select(Lease.workspace_id, func.count())
            .where(Lease.released_at.is_(None))
            .group_by(Lease.workspace_id)
        ).all()
    )
    order = sorted(waiting, key=lambda one: (held.get(one.workspace_id, 0), -one.priority))
    places = [one.owner_id for one in order]
    return (places.index(job.id) + 1, len(places)) if job.id in places else None


def sentence(db: Session, job: Job, reason: str) -> tuple[str, dict[str, Any]] | None:
    """The msgid and its params for a reason of `reasons`; None if it needs no explaining."""
    if reason not in SENTENCES:
        return None
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
