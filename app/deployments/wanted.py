"""Making what runs equal what is wanted: merges, replicas, requests for devices.

Locks are taken in one order: the cluster's where devices change hands, then the deployment's
row, which covers its replicas.
"""

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.cluster import budgets
from app.cluster import service as cluster
from app.db import now
from app.deployments import options, revisions, rolling
from app.deployments.guests import settle
from app.deployments.states import ACTIVE, note, replicas_of, switch_replica
from app.deployments.tables import Deployment, Replica
from app.errors import N_, DomainError
from app.jobs.states import FINAL
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model
from app.queue import node_queue, send

START = "workers.start_replica"
SWEEP = "workers.sweep"


def lock(db: Session, deployment_id: str) -> Deployment:
    """The deployment for a change in which devices may change hands."""
    cluster.lock(db)
    return db.get_one(Deployment, deployment_id, with_for_update=True, populate_existing=True)


def reconcile(db: Session) -> None:
    """Make the requests of all replicas match what is wanted; resend nudges that may be lost."""
    cluster.lock(db)
    unsettled = select(Deployment).where(
        or_(Deployment.deleted_at.is_(None), Deployment.state != "stopped")
    )
    for deployment in db.scalars(
        unsettled.order_by(Deployment.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ):
        advance(db, deployment)
        for replica in replicas_of(db, deployment.id):
            if replica.state == "scheduled" and replica.pid is None and replica.node_id:
                send(db, START, replica.id, replica.fence, queue=node_queue(replica.node_id))


def advance(db: Session, deployment: Deployment, *, refuse: bool = False) -> None:
    """One look at a locked deployment: merge done? replicas there? devices asked for?

    With `refuse`, a request that could never be granted raises (a person is waiting for the
    answer); without, it becomes the deployment's error.
    """
    if deployment.desired != "running":
        settle(db, deployment)
        if deployment.deleted_at and deployment.state == "stopped":
            unpin(db, deployment)
        return
    if deployment.error or deployment.host_id:  # only a person's start clears the first
        settle(db, deployment)
        return
    if deployment.served_model_id is None and not take_merged(db, deployment):
        settle(db, deployment)
        return
    for replica in rolling.step(db, deployment):
        if replica.state in ("stopped", "error") and replica.error is None:
            switch_replica(db, deployment, replica, "pending")
        if replica.state == "pending":
            try:
                ask(db, deployment, replica)
            except DomainError as refusal:
                if refuse:
                    raise
                if deployment.previous is not None:
                    rolling.go_back(db, deployment, told(refusal))
                    advance(db, deployment)
                    return
                withdraw_all(db, deployment)
                deployment.error = told(refusal)
                break
    settle(db, deployment)


def ask(db: Session, deployment: Deployment, replica: Replica) -> None:
    """Ask for the replica's devices, unless it must wait out its last failure."""
    if replica.retry_at and replica.retry_at > now():
        return
    settings = revisions.current(deployment)
    request = cluster.ask(
        db,
        owner_kind="replica",
        owner_id=replica.id,
        workspace_id=deployment.workspace_id,
        user_id=deployment.created_by,
        devices=settings.devices,
        memory=settings.asked,
        kind=options.kind_for(settings.quantization, settings.arguments),
        labels=deployment.labels,
        priority=deployment.priority,
    )
    model = db.get_one(Model, deployment.model_id)
    budgets.serves(
        db,
        replica.id,
        deployment.workspace_id,
        deployment.created_by,
        model.id,
        model.base_id or "",
    )
    replica.reason = "" if request.reason == "new" else request.reason


def take_merged(db: Session, deployment: Deployment) -> bool:
    """Whether the merged model is there; a merge that failed becomes the deployment's error."""
    job = db.get(Job, deployment.merge_job_id, populate_existing=True)
    if job is not None and job.state == "succeeded" and job.result_model_id:
        models.pin(db, job.result_model_id, "deployment", deployment.id, deployment.name)
        deployment.served_model_id, deployment.merge_job_id = job.result_model_id, None
        note(db, deployment, "merged", N_("Merged into one model."), {"job": job.id})
        return True
    if job is None or job.state in FINAL:
        deployment.error = {
            "code": "merge_failed",
            "message": N_("The adapter could not be merged: its job is %(state)s."),
            "params": {"state": job.state if job else "gone", "job": deployment.merge_job_id or ""},
            "advice": N_("Open the job to see why, then start the deployment again."),
        }
    return False


def told(refusal: DomainError) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "message": refusal.message,
        "params": refusal.params,
        "advice": N_("Start it again once that has changed, or delete it."),
    }


def stop_all(db: Session, deployment: Deployment, desired: str = "stopped") -> None:
    """Nothing of a locked deployment shall run; `desired` may be idle instead."""
    deployment.desired, deployment.error = desired, None
    deployment.idled_at = now() if desired == "idle" else None
    for replica in replicas_of(db, deployment.id):
        replica.error, replica.retry_at, replica.failures, replica.reason = None, None, 0, ""
        if replica.state in ("pending", "error"):
            cluster.withdraw(db, "replica", replica.id)
            switch_replica(db, deployment, replica, "stopped")
        elif replica.state in ACTIVE:
            replica.drain_until = None
            switch_replica(db, deployment, replica, "stopping")
    settle(db, deployment)


def withdraw_all(db: Session, deployment: Deployment) -> None:
    for replica in replicas_of(db, deployment.id):
        if replica.state == "pending":
            cluster.withdraw(db, "replica", replica.id)


def unpin(db: Session, deployment: Deployment) -> None:
    for model_id in {deployment.model_id, deployment.served_model_id} - {None}:
        models.unpin(db, str(model_id), "deployment", deployment.id)
