"""What a joined node has the platform do: for what is its own, and nothing else."""

from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster import nodes
from app.cluster.tables import Device, Lease, Node
from app.config import settings
from app.deployments import carrying, metrics, replicas, results
from app.deployments.metrics import Reading
from app.deployments.tables import ReplicaLog, ReplicaMetric
from app.errors import DomainError
from app.jobs import checkpoints, history, reporters, retention, runs
from app.jobs.checkpoints import Found
from app.jobs.tables import Job, JobCheckpoint, JobFiles, JobLog, JobMetric
from app.models.tables import Model
from app.nodework import asking
from app.nodework.asking import Away, Removed, do, name_of, shapes
from app.nodework.calls import FUNCTIONS
from tests import factories as make
from tests.conftest import Client
from tests.nodework.test_joining import rows

DEVICE: dict[str, Any] = {
    "name": "cpu:0", "kind": "cpu", "model": "a processor", "uuid": "", "memory": 2**33,
    "healthy": True, "stats": {"use": 3, "memory": 2**20},
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=name_of)
def test_every_call_can_be_written_down(function: Any) -> None:
    taken, given = shapes(function)
    assert taken.model_json_schema()
    assert given.model_json_schema(mode="serialization")


def test_a_heartbeat(db: Session, as_node: dict[str, str]) -> None:
    do(nodes.beat, "gpu-1", "10.0.0.1", {"danlu": "1"}, [DEVICE])
    assert db.get_one(Node, "gpu-1").host == "10.0.0.1"
    assert db.scalar(select(Device.name).where(Device.node_id == "gpu-1")) == "cpu:0"
    with pytest.raises(DomainError) as refused:
        do(nodes.beat, "gpu-2", "10.0.0.1", {}, [])
    assert refused.value.code == "not_yours"


def test_the_whole_of_a_run(db: Session, as_node: dict[str, str]) -> None:
    job, theirs = rows(db)
    job.state = "scheduled"
    db.commit()
    facts = do(runs.start_facts, job.id, 1)
    assert facts
    assert isinstance(facts, runs.RunFacts)
    assert facts.job_id == job.id
    assert do(runs.mark_started, job.id, 1, 123, float(2**53 - 1))
    said = "说".encode()[:2]  # half a character
    line = {"step": 1, "epoch": 0.1, "loss": float("nan"), "lr": 1e-5}
    status = {"state": "running", "step": 1, "total": 9}
    assert do(runs.ship, job.id, 1, log=(0, said), metrics=[line], status=status)
    assert not do(runs.ship, job.id, 2, log=(0, said))
    assert do(history.shipped, job.id, 1) == (2, 1)
    db.expire_all()
    assert db.scalar(select(JobLog.data)) == said
    assert db.scalar(select(JobMetric.step)) == 1
    assert (job.state, job.pid_started, job.total) == ("running", float(2**53 - 1), 9)
    found = [Found(step=1, fence=1, loss=0.5, eval_loss=None, size=7)]
    ended = do(results.finish, "gpu-1", job.id, 1, outcome="died", standing=found)
    assert ended == results.Ended(mine=True, state="queued", deployed=False)
    assert db.scalar(select(JobCheckpoint.size)) == 7
    there = retention.Standing(job.id, {1: 9}, 5)
    assert (
        do(retention.told, "gpu-1", [there, retention.Standing(theirs.id, {1: 9}, 5)]).going == []
    )
    assert list(db.scalars(select(JobFiles.job_id))) == [job.id]
    with pytest.raises(DomainError):
        do(retention.told, "gpu-2", [there])


def test_what_it_stored_has_its_own_name(db: Session, as_node: dict[str, str]) -> None:
    job, theirs = rows(db)
    result = {"kind": "adapter", "artefact": f"models/{theirs.id}-1", "facts": {}, "steps": 3}
    for wrong in (result, result | {"artefact": f"models/{job.id}-1", "tensorboard": "models/x"}):
        with pytest.raises(DomainError) as refused:
            do(results.finish, "gpu-1", job.id, 1, outcome="succeeded", result=wrong)
        assert refused.value.code == "not_yours"
    right = result | {"artefact": f"models/{job.id}-1"}
    ended = do(results.finish, "gpu-1", job.id, 1, outcome="succeeded", result=right)
    assert ended.state == "succeeded"
    made = db.scalar(select(Model).where(Model.job_id == job.id))
    assert made
    assert made.artefact == right["artefact"]


def test_other_nodes_work_is_closed(db: Session, as_node: dict[str, str]) -> None:
    _, theirs = rows(db)
    replica = replicas.active_on(db, "other")[0]
    for ask in (
        lambda: do(runs.start_facts, theirs.id, 1),
        lambda: do(runs.ship, theirs.id, 1, log=(0, b"x")),
        lambda: do(results.finish, "gpu-1", theirs.id, 1, outcome="failed"),
        lambda: do(checkpoints.base_of, theirs.id),
        lambda: do(replicas.start_facts, replica.id, 1),
        lambda: do(replicas.mark, replica.id, 1, strikes=1),
        lambda: do(replicas.end, replica.id, 1),
        lambda: do(carrying.to_do, "other"),
        lambda: do(runs.start_facts, "job_none", 1),
    ):
        with pytest.raises(DomainError) as refused:
            ask()
        assert refused.value.code == "not_yours"


def test_tokens_are_told_where_the_job_runs(db: Session, as_node: dict[str, str]) -> None:
    job, _ = rows(db)
    device = make.make_device(db, db.get_one(Node, "gpu-1"), name="cpu:7")
    held = {"owner_kind": "job", "owner_id": job.id, "workspace_id": job.workspace_id}
    db.add(Lease(device_id=device.id, node_id="gpu-1", bytes=1, exclusive=True, **held))
    db.commit()
    assert do(reporters.tokens, job.id, 1) == {}
    job.node_id = "other"  # which it has moved to
    db.commit()
    assert do(checkpoints.base_of, job.id)
    with pytest.raises(DomainError) as refused:
        do(reporters.tokens, job.id, 1)
    assert refused.value.code == "not_yours"


def test_an_engine(db: Session, as_node: dict[str, str]) -> None:
    rows(db)
    one = replicas.active_on(db, "gpu-1")[0]
    assert do(replicas.mark, one.id, 1, strikes=1)
    assert do(replicas.ship_log, one.id, 1, 0, b"\xff\x00")
    do(metrics.record, one.id, 1, Reading(running=1, gaps=[[0.1, 3], [None, 4]]))
    assert db.scalar(select(ReplicaLog.data)) == b"\xff\x00"
    assert db.scalar(select(ReplicaMetric.gaps)) == [[0.1, 3], [None, 4]]
    with pytest.raises(DomainError):
        do(carrying.mark_loaded, one.id, 1, "dep_of_others", seconds=1)
    assert do(replicas.end, one.id, 1, {"code": "x", "message": "y"})


def test_what_is_no_call(as_node: dict[str, str], admin: Client) -> None:
    with asking.client() as node:
        assert node.post("/api/v1/node/calls/os.system", content=b"{}").status_code == 404
        wrong = node.post("/api/v1/node/calls/cluster.nodes.beat", content=b'{"host": 1}')
        assert wrong.status_code == 422
        node.headers["authorization"] = "Bearer dk-something"
        assert node.post("/api/v1/node/calls/jobs.loads.record", content=b"{}").status_code == 401
        node.headers["authorization"] = f"Bearer {as_node['DANLU_NODE_KEY']}x"
        assert node.post("/api/v1/node/calls/jobs.loads.record", content=b"{}").status_code == 403


def test_removed_and_away(
    as_node: dict[str, str], admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admin.delete("/api/v1/nodes/gpu-1").status_code == 204
    with pytest.raises(Removed, match="was removed"):
        do(checkpoints.on_node, "gpu-1")
    nobody = httpx.Client(base_url="http://127.0.0.1:9")
    monkeypatch.setattr(asking, "client", lambda: nobody)
    with pytest.raises(Away):
        do(checkpoints.on_node, "gpu-1")


def test_here_it_is_a_transaction(db: Session) -> None:
    make.make_node(db, id="local")
    db.commit()
    assert not settings.server
    do(nodes.beat, "local", "127.0.0.1", {}, [DEVICE])
    db.expire_all()
    assert db.scalar(select(Device).where(Device.node_id == "local", Device.memory == 2**33))
    assert db.scalar(select(Job.id)) is None
