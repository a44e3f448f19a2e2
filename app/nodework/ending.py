"""What ran on a node that is no more goes on elsewhere."""

from sqlalchemy.orm import Session

from app.datasets.measures import service as measures
from app.deployments import replicas
from app.errors import N_
from app.jobs import checkpoints, runs

DEAD = {
    "code": "node_dead",
    "message": N_("Node %(node)s has been silent for too long and was declared dead."),
    "advice": N_("It starts again on another node, or here once the node is back."),
}
REMOVED = {
    "code": "node_removed",
    "message": N_("Node %(node)s was removed from the platform."),
    "advice": N_("It starts again on another node."),
}


def end_all(db: Session, node_id: str, why: dict[str, str]) -> None:
    """Under the cluster's lock: its jobs are queued again under a new fence, its replicas are
    started elsewhere, what only it had is given up.
    """
    for job in runs.active_on(db, node_id):
        runs.end(db, job.id, job.fence, outcome="died")
    for replica in replicas.active_on(db, node_id):
        replicas.end(db, replica.id, replica.fence, why | {"params": {"node": node_id}})
    measures.again(db, node_id)
    checkpoints.lost(db, node_id)
