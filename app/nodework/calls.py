"""What a node that has joined may have done for it: these functions, for what is its own.

Each argument that names a job, a replica, a measure or a node is looked at first; what a node says it
has put into the store counts only under the name that its attempt gives it.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster import nodes, readings
from app.cluster.tables import Lease
from app.datasets.measures import service as measures
from app.datasets.measures import tasks
from app.datasets.tables import DatasetMeasure
from app.deployments import carrying, metrics, replicas, results
from app.deployments.tables import AdapterLoad, Deployment, Replica
from app.errors import N_, Forbidden, NotFound
from app.jobs import (
    benchmarks,
    checkpoints,
    exports,
    history,
    loads,
    reporters,
    retention,
    runs,
    storing,
)
from app.jobs.tables import Job, JobCheckpoint
from app.nodework.asking import name_of, shapes

Taken = dict[str, Any]

FUNCTIONS: tuple[Callable[..., Any], ...] = (
    nodes.beat,
    readings.record,
    loads.record,
    runs.start_facts,
    runs.mark_started,
    runs.ship,
    reporters.tokens,
    history.shipped,
    retention.told,
    results.finish,
    checkpoints.keep,
    checkpoints.on_node,
    checkpoints.base_of,
    checkpoints.refuse,
    checkpoints.published,
    storing.due,
    storing.note,
    replicas.start_facts,
    replicas.mark,
    replicas.mark_started,
    replicas.ship_log,
    replicas.end,
    metrics.record,
    carrying.to_do,
    carrying.mark_loaded,
    carrying.mark_unloaded,
    measures.tidy,
    measures.take,
    tasks.find,
    tasks.edits,
    measures.mark_started,
    measures.note,
    measures.finish,
    measures.again,
    measures.forget,
)
CALLS = {name_of(function): function for function in FUNCTIONS}
TOKENS = name_of(reporters.tokens)  # for where a job runs, not for where it once did


def carry_out(db: Session, node_id: str, name: str, body: bytes) -> bytes:
    """The answer as JSON. Raises NotFound, Forbidden, pydantic's ValidationError, and what the
    function raises.
    """
    function = CALLS.get(name)
    if function is None:
        raise NotFound(N_("The platform knows no such call: is it of the same version?"))
    shape, given = shapes(function)
    taken = shape.model_validate_json(body)
    arguments = {field: getattr(taken, field) for field in shape.model_fields}
    check(db, node_id, name, arguments)
    return given(value=function(db, **arguments)).model_dump_json().encode()


def check(db: Session, node_id: str, name: str, taken: Taken) -> None:
    """Raises Forbidden for what is not this node's."""
    asked = (
        taken.get("node_id", node_id) == node_id
        and (taken.get("job_id") is None or had_job(db, node_id, taken["job_id"]))
        and (name != TOKENS or owner(db, Job, taken["job_id"]) == node_id)
        and ("replica_id" not in taken or owner(db, Replica, taken["replica_id"]) == node_id)
        and ("measure_id" not in taken or owner(db, DatasetMeasure, taken["measure_id"]) == node_id)
        and ("guest_id" not in taken or carried(db, taken["replica_id"], taken["guest_id"]))
        and (not taken.get("result") or own_result(db, name, taken))
    )
    if not asked:
        raise Forbidden(N_("This is not that node's."), code="not_yours")


def owner(db: Session, table: type[Replica | DatasetMeasure | Job], row_id: str) -> str | None:
    return db.scalar(select(table.node_id).where(table.id == row_id))


def had_job(db: Session, node_id: str, job_id: str) -> bool:
    """It runs there, or once did: its checkpoints may stand there yet."""
    if db.scalar(select(Job.node_id).where(Job.id == job_id)) == node_id:
        return True
    once = select(Lease.id).where(
        Lease.owner_kind == "job", Lease.owner_id == job_id, Lease.node_id == node_id
    )
    return db.scalar(select(once.exists())) or False


def carried(db: Session, replica_id: str, guest_id: str) -> bool:
    host = db.scalar(select(Replica.deployment_id).where(Replica.id == replica_id))
    if db.scalar(select(Deployment.host_id).where(Deployment.id == guest_id)) == host:
        return True
    return db.get(AdapterLoad, (replica_id, guest_id)) is not None


def own_result(db: Session, name: str, taken: Taken) -> bool:
    """Whether what it says to have stored is under the name of its own attempt."""
    if "job_id" not in taken:  # figures of a measure
        return True
    job, result = db.get_one(Job, taken["job_id"]), taken["result"]
    if name == name_of(checkpoints.published):
        row = db.get(JobCheckpoint, (job.id, taken["step"]))
        return row is not None and result["artefact"] == checkpoints.artefact(row)
    marker = f"{job.id}-{taken['fence']}"
    own = {f"models/{marker}", exports.artefact(job), benchmarks.artefact(job)}
    boards = (None, f"tensorboard/{marker}")
    return result.get("artefact") in own and result.get("tensorboard") in boards
