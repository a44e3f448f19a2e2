"""What a node and the sweep do with jobs: fences, what is shipped, and how it ends."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster import nodes
from app.cluster import service as cluster
from app.cluster.tables import Node
from app.datasets.tables import DatasetPin
from app.jobs import history, runs, service, waiting
from app.jobs.schemas import JobCreate
from app.jobs.tables import Job
from app.models.tables import Model
from app.quotas import service as quotas
from app.quotas.tables import Usage
from tests.factories import make_dataset, make_model, make_node, make_workspace
from tests.jobs.people import owner, principal

RESULT = {"kind": "adapter", "artefact": "models/x", "libraries": {"torch": "2.13.0"}, "facts": {}}


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db)


@pytest.fixture
def job(db: Session, workspace: Workspace) -> Job:
    """Queued, on a platform with one node of two devices."""
    make_node(db, id="local")
    body = JobCreate(name="mood", model=make_model(db).id, dataset=make_dataset(db, workspace).id)
    return service.create(db, principal(db, workspace), body)


def schedule(db: Session, job: Job) -> int:
    """The sweep's part; returns the fence."""
    (grant,) = cluster.decide(db)
    assert runs.grant(db, grant.owner_id, grant.node_id)
    return job.fence


def start(db: Session, job: Job) -> int:
    fence = schedule(db, job)
    assert runs.mark_started(db, job.id, fence, 4711, 1.5)
    return fence


def states(db: Session, job: Job) -> list[str]:
    events = history.events(db, job.id)
    return [event.params["new"] for event in events if event.kind == "state"]


def test_from_queue_to_model(db: Session, job: Job) -> None:
    fence = schedule(db, job)
    assert (job.state, fence, job.node_id) == ("scheduled", 1, "local")
    assert db.info["outbox"][-1] == ("workers.start_run", (job.id, 1), "node.local")
    facts = runs.start_facts(db, job.id, fence)
    assert facts is not None
    assert facts.devices == ["cpu:0"]
    assert facts.train == ["segments/" + "0" * 64]
    assert (facts.adapter, facts.earlier) == (None, [])
    assert runs.mark_started(db, job.id, fence, 4711, 1.5)
    assert runs.start_facts(db, job.id, fence) is None
    assert runs.ship(db, job.id, fence, status={"phase": "train", "step": 3, "total": 9})
    assert runs.end(db, job.id, fence, outcome="succeeded", result=RESULT)
    assert states(db, job) == ["queued", "scheduled", "running", "succeeded"]
    assert (job.step, job.total, job.pid) == (9, 9, None)
    made = db.get_one(Model, job.result_model_id)
    version_id = made.lineage["dataset"]["version_id"]
    assert (made.name, made.kind, made.job_id, version_id) == (
        "mood",
        "adapter",
        job.id,
        job.dataset_version_id,
    )
    assert made.base_id == made.parent_id == job.model_id
    assert made.lineage["libraries"] == {"torch": "2.13.0"}
    assert made.lineage["code"].startswith("danlu ")
    assert cluster.leases_of(db, "job", job.id) == []
    assert db.scalar(select(Usage.owner_id)) == job.id
    assert db.scalar(select(DatasetPin.owner_id)) is None


def test_an_adapters_facts_name_its_base(db: Session, workspace: Workspace) -> None:
    make_node(db)
    base = make_model(db)
    adapter = make_model(db, workspace, kind="adapter", base_id=base.id)
    user = owner(db, workspace)
    job = service.create_merge(
        db, workspace_id=workspace.id, user_id=user.id, adapter_id=adapter.id
    )
    fence = schedule(db, job)
    facts = runs.start_facts(db, job.id, fence)
    assert facts is not None
    assert (facts.stage, facts.base, facts.adapter) == ("merge", base.artefact, adapter.artefact)
    assert facts.train == []
    runs.end(db, job.id, fence, outcome="succeeded", result=RESULT | {"kind": "merged"})
    made = db.get_one(Model, job.result_model_id)
    assert (made.base_id, made.parent_id, made.kind) == (base.id, adapter.id, "merged")


def test_a_stale_fence_changes_nothing(db: Session, job: Job) -> None:
    fence = start(db, job)
    runs.end(db, job.id, fence, outcome="died")
    new = schedule(db, job)
    assert new == fence + 1
    assert not runs.mark_started(db, job.id, fence, 1, 1.0)
    assert not runs.ship(db, job.id, fence, log=(0, b"ghost\n"), metrics=[{"step": 1, "loss": 1}])
    assert not runs.end(db, job.id, fence, outcome="succeeded", result=RESULT)
    assert runs.start_facts(db, job.id, fence) is None
    assert job.state == "scheduled"
    assert history.log_from(db, job.id, 0, final=True) == ("", 0, False)
    assert history.metrics(db, job.id) == []
    assert len(cluster.leases_of(db, "job", job.id)) == 1
    facts = runs.start_facts(db, job.id, new)
    assert facts is not None
    assert facts.earlier == [fence]


def test_a_death_is_tried_again_three_times(db: Session, job: Job) -> None:
    for attempt in range(4):
        fence = start(db, job)
        runs.ship(db, job.id, fence, status={"phase": "train", "step": 5, "total": 9})
        assert runs.end(db, job.id, fence, outcome="died")
        assert job.state == ("queued" if attempt < 3 else "failed")
    assert (job.retries, job.fence) == (3, 4)
    assert job.error is not None
    assert job.error["code"] == "died"
    assert "4 times" in job.error["message"] % job.error["params"]
    assert cluster.waiting(db, "job", job.id) is None


def test_a_run_with_checkpoints_goes_back_to_its_node(db: Session, job: Job) -> None:
    fence = start(db, job)
    runs.end(db, job.id, fence, outcome="stopped")
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert request.node_id is None  # it had not taken a step
    fence = start(db, job)
    runs.ship(db, job.id, fence, status={"phase": "train", "step": 5, "total": 9})
    runs.end(db, job.id, fence, outcome="stopped")
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert (request.node_id, job.retries, job.state) == ("local", 0, "queued")
    service.pause(db, job.workspace_id, job.id)
    nodes.cordon(db, "local", True)
    service.resume(db, job.workspace_id, job.id)
    request = cluster.waiting(db, "job", job.id)
    assert request is not None
    assert request.node_id is None


@pytest.mark.parametrize(
    ("asked", "outcome", "state"),
    [
        ("pause", "stopped", "paused"),
        ("pause", "died", "paused"),
        ("pause", "succeeded", "succeeded"),
        ("pause", "failed", "failed"),
        ("cancel", "stopped", "cancelled"),
        ("cancel", "died", "cancelled"),
        ("cancel", "succeeded", "cancelled"),
        ("cancel", "failed", "cancelled"),
        (None, "stopped", "queued"),
        (None, "failed", "failed"),
    ],
)
@pytest.mark.parametrize("started", [True, False])
def test_how_it_ends(
    db: Session, job: Job, asked: str | None, outcome: Any, state: str, started: bool
) -> None:
    fence = start(db, job) if started else schedule(db, job)
    if asked:
        getattr(service, asked)(db, job.workspace_id, job.id)
    error = {"code": "oom", "message": "Out of memory", "params": {}}
    assert runs.end(db, job.id, fence, outcome=outcome, error=error, result=RESULT)
    assert job.state == state
    assert cluster.leases_of(db, "job", job.id) == []
    assert (job.error or {}).get("code") == ("oom" if state == "failed" else None)
    assert (cluster.waiting(db, "job", job.id) is not None) == (state == "queued")
    assert not runs.end(db, job.id, fence, outcome="died")  # what ended does not end again


def test_a_start_that_was_cancelled_meanwhile_is_known_to_the_node(db: Session, job: Job) -> None:
    fence = schedule(db, job)
    service.cancel(db, job.workspace_id, job.id)
    assert runs.start_facts(db, job.id, fence) is None
    assert runs.mark_started(db, job.id, fence, 4711, 1.5)  # it had been started already
    assert (job.state, job.pid) == ("cancelling", 4711)
    assert [one.id for one in runs.active_on(db, "local")] == [job.id]


def test_devices_for_a_job_that_no_longer_waits_go_back(db: Session, job: Job) -> None:
    (grant,) = cluster.decide(db)
    job.state = "cancelled"
    db.flush()
    assert not runs.grant(db, grant.owner_id, grant.node_id)
    assert cluster.leases_of(db, "job", job.id) == []


def test_a_quota_that_shrank_fails_what_would_be_tried_again(db: Session, job: Job) -> None:
    fence = start(db, job)
    quotas.put(db, job.workspace_id, 0)
    runs.end(db, job.id, fence, outcome="died")
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "quota"


def test_resend_nudges_what_has_not_started(db: Session, job: Job) -> None:
    fence = schedule(db, job)
    db.info.clear()
    runs.resend(db)
    assert db.info["outbox"] == [("workers.start_run", (job.id, fence), "node.local")]
    runs.mark_started(db, job.id, fence, 1, 1.0)
    db.info.clear()
    runs.resend(db)
    assert "outbox" not in db.info


def test_a_silent_node_is_the_reason(db: Session, job: Job) -> None:
    start(db, job)
    node = db.get_one(Node, "local")
    node.seen_at = node.seen_at.replace(year=2020)
    db.flush()
    assert waiting.reasons(db, [job]) == {job.id: "unreachable"}
    said = waiting.sentence(db, job, "unreachable")
    assert said is not None
    assert "Node local has not been heard of" in said[0] % said[1]
