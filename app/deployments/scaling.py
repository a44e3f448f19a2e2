"""More replicas of a deployment, or fewer."""

from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.deployments import service
from app.deployments.states import ACTIVE, note, replicas_of, switch_replica
from app.deployments.tables import Deployment
from app.deployments.wanted import advance, lock
from app.errors import N_
from app.queue import send


def scale(db: Session, workspace_id: str, deployment_id: str, replicas: int) -> Deployment:
    """Run so many engines; those with the highest numbers stop first. The others go on serving.

    Raises NotFound, and Invalid if the workspace's quota has no room for them.
    """
    deployment = service.get(db, workspace_id, deployment_id)
    if replicas > deployment.replicas:
        service.check_quota(db, workspace_id, replicas * deployment.devices)
    deployment = lock(db, deployment.id)
    if replicas == deployment.replicas:
        return deployment
    old, deployment.replicas = deployment.replicas, replicas
    note(
        db,
        deployment,
        "scaled",
        N_("Scaled from %(old)s to %(new)s replicas."),
        {"old": old, "new": replicas},
    )
    for replica in replicas_of(db, deployment.id)[replicas:]:
        replica.error, replica.retry_at, replica.failures, replica.reason = None, None, 0, ""
        if replica.state in ("pending", "error"):
            cluster.withdraw(db, "replica", replica.id)
            switch_replica(db, deployment, replica, "stopped")
        elif replica.state in ACTIVE and replica.state != "stopping":
            switch_replica(db, deployment, replica, "stopping")
    advance(db, deployment, refuse=True)
    send(db, service.SWEEP)
    return deployment
