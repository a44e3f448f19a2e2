"""A deployment's way up and down, and what happens when engines fail."""

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.cluster.tables import Lease, Request
from app.db import now
from app.deployments import replicas, service, states
from app.deployments.states import MOVES, REPLICA_MOVES, replicas_of
from app.errors import Conflict, NotFound
from app.models import service as models
from tests.deployments.acts import body, messages, only, run, started, sweep
from tests.factories import make_model, make_node

# -- the way up and down -----------------------------------------------------------------


def test_from_create_to_ready_and_back(db: Session, workspace: Workspace, who: Principal) -> None:
    node = make_node(db)
    model = make_model(db)
    deployment = service.create(db, who, body(model))
    assert (deployment.state, deployment.mode, deployment.max_model_len) == (
        "pending",
        "base",
        2048,
    )
    assert db.info["outbox"][-1][0] == "workers.sweep"
    assert {pin.owner_id for pin in models.pins(db, model.id)} == {deployment.id}
    assert service.names(db, workspace.id) == []

    sweep(db)
    replica = only(db, deployment)
    assert (replica.state, replica.node_id, replica.fence) == ("scheduled", node.id, 1)
    assert db.info["outbox"][-1] == ("workers.start_replica", (replica.id, 1), f"node.{node.id}")
    facts = replicas.start_facts(db, replica.id, 1)
    assert facts is not None
    assert (facts.model, facts.adapter, facts.rank) == (
        model.artefact,
        None,
        32,
    )  # room for adapters
    assert facts.devices == ["cpu:0"]
    assert 0.1 < facts.share < 1

    started(db, replica)
    assert deployment.state == "starting"
    assert replicas.start_facts(db, replica.id, 1) is None
    assert service.route(db, workspace.id, "mood").replicas == ()
    assert replicas.mark(db, replica.id, 1, phase="load")
    assert replicas.mark(db, replica.id, 1, state="ready", phase="", memory=123)
    assert (deployment.state, replica.memory) == ("ready", 123)
    route = service.route(db, workspace.id, "mood")
    assert [(one.address, one.secret, one.served_name) for one in route.replicas] == [
        ("http://127.0.0.1:1", "s", "mood")
    ]
    assert [one.name for one in service.names(db, workspace.id)] == ["mood"]

    service.stop(db, workspace.id, deployment.id)
    assert (deployment.state, replica.state) == ("stopping", "stopping")
    assert service.route(db, workspace.id, "mood").replicas == ()
    assert not replicas.mark(db, replica.id, 1, state="unhealthy", strikes=3)
    assert replicas.end(db, replica.id, 1)
    assert (deployment.state, replica.state, replica.secret) == ("stopped", "stopped", "")
    assert db.scalar(select(func.count()).where(Lease.released_at.is_(None))) == 0
    assert db.scalar(select(func.count()).select_from(Request)) == 0
    sweep(db)
    assert deployment.state == "stopped"

    service.start(db, workspace.id, deployment.id)
    sweep(db)
    assert (replica.state, replica.fence) == ("scheduled", 2)
    assert messages(db, deployment)[:3] == [
        f"Created for {model.name}.",
        f"Replica 1 got its device on node {node.id}.",
        "The engine is starting.",
    ]


def test_stop_reaches_what_waits_and_what_is_starting(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    waiting = service.create(db, who, body(make_model(db), name="a"))
    service.stop(db, workspace.id, waiting.id)
    assert waiting.state == "stopped"
    assert cluster.waiting(db, "replica", only(db, waiting).id) is None

    make_node(db)
    starting = service.create(db, who, body(make_model(db), name="b"))
    sweep(db)
    replica = only(db, starting)
    service.stop(db, workspace.id, starting.id)
    assert (replica.state, starting.state) == ("stopping", "stopping")
    # its starter was under way all the same: the node stops that in the ordinary way
    started(db, replica)
    assert (replica.state, replica.pid) == ("stopping", 2**22)
    assert service.stop(db, workspace.id, starting.id).state == "stopping"
    service.start(db, workspace.id, starting.id)
    assert starting.state == "stopping"
    assert replicas.end(db, replica.id, replica.fence)
    assert starting.state == "pending"


def test_delete_frees_the_name_and_then_the_model(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    model = make_model(db, workspace)
    deployment = service.create(db, who, body(model))
    replica = run(db, deployment)
    with pytest.raises(Conflict):
        service.create(db, who, body(model))
    service.delete(db, workspace.id, deployment.id)
    with pytest.raises(NotFound):
        service.get(db, workspace.id, deployment.id)
    assert service.route(db, workspace.id, "mood") is None
    service.create(db, who, body(model))
    assert len(models.pins(db, model.id)) == 2
    assert replicas.end(db, replica.id, replica.fence)
    assert len(models.pins(db, model.id)) == 1
    assert len(service.list_deployments(db, workspace.id)[0]) == 1


def test_a_stale_fence_changes_nothing(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db)))
    replica = run(db, deployment)
    replicas.end(db, replica.id, 1, {"code": "died", "message": "It died."})
    replica.retry_at = None
    sweep(db)
    assert replica.fence == 2
    assert not replicas.mark(db, replica.id, 1, state="ready")
    assert not replicas.ship_log(db, replica.id, 1, 0, b"old")
    assert not replicas.end(db, replica.id, 1)
    assert not replicas.mark_started(
        db, replica.id, 1, pid=1, pid_started=1.0, address="", secret="", engine="vllm"
    )
    assert replica.state == "scheduled"
    assert replicas.running(db, replica.id, 1) is None


# -- failing -----------------------------------------------------------------------------


def test_failures_are_told_and_tried_again_after_a_growing_pause(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db)))
    pauses = []
    for _ in range(7):
        sweep(db)
        replica = only(db, deployment)
        started(db, replica)
        error = {"code": "out_of_memory", "message": "No memory.", "params": {}, "advice": "Less."}
        replicas.end(db, replica.id, replica.fence, error)
        assert (deployment.state, deployment.reason) == ("error", "out_of_memory")
        pauses.append((replica.retry_at - now()).total_seconds())
        sweep(db)
        assert replica.state == "pending"  # not yet
        assert cluster.waiting(db, "replica", replica.id) is None
        replica.retry_at = now()
    assert pauses == pytest.approx([10, 20, 40, 80, 160, 300, 300], abs=2)
    service.start(db, workspace.id, deployment.id)
    assert (replica.failures, replica.error, deployment.state) == (0, None, "pending")


def test_what_cannot_help_is_not_tried_again(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db)))
    sweep(db)
    replica = only(db, deployment)
    error = {"code": "context_too_long", "message": "Too long.", "permanent": True}
    replicas.end(db, replica.id, replica.fence, error)
    sweep(db)
    assert (deployment.state, replica.state, replica.retry_at) == ("error", "error", None)
    assert cluster.waiting(db, "replica", replica.id) is None
    service.start(db, workspace.id, deployment.id)
    sweep(db)
    assert replica.state == "scheduled"


def test_unhealthy_is_not_routed_to(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db)))
    replica = run(db, deployment)
    assert replicas.mark(db, replica.id, 1, strikes=2, state="ready")
    assert deployment.state == "ready"
    assert replicas.mark(db, replica.id, 1, strikes=3, state="unhealthy")
    assert deployment.state == "unhealthy"
    assert service.route(db, workspace.id, "mood").replicas == ()
    assert [one.name for one in service.names(db, workspace.id)] == ["mood"]
    assert replicas.mark(db, replica.id, 1, strikes=0, state="ready")
    assert deployment.state == "ready"


def test_two_replicas_share_the_name(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db), replicas=2))
    sweep(db)
    first, second = replicas_of(db, deployment.id)
    for replica in (first, second):
        started(db, replica)
    replicas.mark(db, first.id, 1, state="ready")
    assert deployment.state == "ready"
    replicas.mark(db, second.id, 1, state="ready")
    assert len(service.route(db, workspace.id, "mood").replicas) == 2
    replicas.end(db, first.id, 1, {"code": "died", "message": "It died."})
    assert deployment.state == "ready"
    assert [one.id for one in service.route(db, workspace.id, "mood").replicas] == [second.id]


def test_every_move_is_between_known_states() -> None:
    for moves in (MOVES, REPLICA_MOVES):
        assert set().union(*moves.values()) <= set(moves)
    assert set(states.MESSAGES) == set(MOVES)
    assert set(states.REPLICA_MESSAGES) == set(REPLICA_MOVES)


def test_an_impossible_move_is_refused(db: Session, workspace: Workspace, who: Principal) -> None:
    deployment = service.create(db, who, body(make_model(db)))
    with pytest.raises(Conflict):
        states.switch(db, deployment, "unhealthy")
    with pytest.raises(Conflict):
        states.switch_replica(db, deployment, only(db, deployment), "ready")


# -- logs --------------------------------------------------------------------------------


def test_logs_join_and_old_ones_go(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db)))
    sweep(db)
    replica = only(db, deployment)
    assert service.log(db, replica) == (1, 0, b"")
    for offset, data in ((0, b"one "), (4, b"two "), (0, b"one ")):
        assert replicas.ship_log(db, replica.id, 1, offset, data)
    assert service.log(db, replica) == (1, 8, b"one two ")
    assert service.log(db, replica, 1, 4) == (1, 8, b"two ")
    assert service.log(db, replica, 1, 8) == (1, 8, b"")
    assert replicas.running(db, replica.id, 1).shipped == 8
    replica.fence = 4
    db.flush()
    replicas.ship_log(db, replica.id, 4, 0, b"new")
    assert service.log(db, replica, 1, 8) == (4, 3, b"new")
    assert db.scalar(select(func.count()).select_from(replicas.ReplicaLog)) == 1
