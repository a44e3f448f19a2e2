"""What a person does with deployments, and what sweep and node make of it."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.cluster.tables import Lease, Request
from app.config import settings
from app.db import now
from app.deployments import replicas, service, sizing, states, wanted
from app.deployments.plans import plan
from app.deployments.schemas import DeploymentCreate
from app.deployments.states import MOVES, REPLICA_MOVES, replicas_of
from app.deployments.tables import Deployment, DeploymentEvent, Replica
from app.errors import Conflict, Invalid, NotFound
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model, ModelPin
from app.quotas import service as quotas
from tests.factories import GIB, make_device, make_model, make_node, make_workspace
from tests.jobs.people import principal

LORA = {"peft_type": "LORA", "r": 12, "target_modules": ["q_proj"], "init_lora_weights": True}


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db)


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    return principal(db, workspace)


def body(model: Model, **more: Any) -> DeploymentCreate:
    return DeploymentCreate.model_validate({"name": "mood", "model": model.id} | more)


def store(model: Model, name: str, content: dict[str, Any]) -> None:
    directory = Path(settings.store_url) / model.artefact
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(content))


def make_adapter(db: Session, workspace: Workspace, **config: Any) -> Model:
    base = make_model(db, context_length=512)
    adapter = make_model(
        db, workspace, kind="adapter", base_id=base.id, parent_id=base.id, size=1_000_000
    )
    store(adapter, "adapter_config.json", LORA | config)
    return adapter


def sweep(db: Session) -> None:
    wanted.reconcile(db)
    for grant in cluster.decide(db):
        replicas.grant(db, grant.owner_id, grant.node_id)


def only(db: Session, deployment: Deployment) -> Replica:
    (replica,) = replicas_of(db, deployment.id)
    return replica


def started(db: Session, replica: Replica) -> None:
    assert replicas.mark_started(
        db, replica.id, replica.fence, pid=2**22, pid_started=1.0,
        address="http://127.0.0.1:1", secret="s", engine="vllm",
    )  # fmt: skip


def run(db: Session, deployment: Deployment) -> Replica:
    """Take it all the way to ready, as sweep and node would."""
    sweep(db)
    replica = only(db, deployment)
    started(db, replica)
    assert replicas.mark(db, replica.id, replica.fence, state="ready")
    return replica


def messages(db: Session, deployment: Deployment) -> list[str]:
    return [event.message % event.params for event in reversed(service.events(db, deployment.id))]


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
    assert (facts.model, facts.adapter, facts.rank) == (model.artefact, None, 0)
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
    assert set(states.MESSAGES) == set(MOVES) - {"idle"}
    assert set(states.REPLICA_MESSAGES) == set(REPLICA_MOVES)


def test_an_impossible_move_is_refused(db: Session, workspace: Workspace, who: Principal) -> None:
    deployment = service.create(db, who, body(make_model(db)))
    with pytest.raises(Conflict):
        states.switch(db, deployment, "unhealthy")
    with pytest.raises(Conflict):
        states.switch_replica(db, deployment, only(db, deployment), "ready")


# -- waiting and refusing ----------------------------------------------------------------


def test_no_free_device_waits_and_says_so(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db, devices=1)
    cluster.ask(db, owner_kind="job", owner_id="job_x", workspace_id=workspace.id, devices=1)
    cluster.decide(db)
    deployment = service.create(db, who, body(make_model(db)))
    sweep(db)
    sweep(db)
    assert (deployment.state, deployment.reason) == ("pending", "devices")
    cluster.release(db, "job", "job_x")
    sweep(db)
    assert deployment.state == "starting"


def test_quota_waits_and_too_much_is_refused(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db, devices=2)
    quotas.put(db, workspace.id, 1)
    cluster.ask(db, owner_kind="job", owner_id="job_x", workspace_id=workspace.id, devices=1)
    cluster.decide(db)
    deployment = service.create(db, who, body(make_model(db)))
    sweep(db)
    sweep(db)
    assert (deployment.state, deployment.reason) == ("pending", "quota")
    for asked in ("devices", "replicas"):
        with pytest.raises(Invalid) as refusal:
            service.create(db, who, body(make_model(db), name=asked, **{asked: 2}))
        assert refusal.value.code == "quota"
    quotas.put(db, workspace.id, 0)
    db.flush()
    with pytest.raises(Invalid):
        service.create(db, who, body(make_model(db), name="none"))


def test_more_than_the_largest_device_is_refused(db: Session, who: Principal) -> None:
    make_node(db, devices=0)
    make_device(db, make_node(db, devices=0), memory=4 * GIB)
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(make_model(db, parameters=7 * 10**9, size=14 * 10**9)))
    assert refusal.value.code == "memory"
    assert "GiB" in str(refusal.value)


def test_quota_taken_away_later_becomes_an_error(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    deployment = service.create(db, who, body(make_model(db)))
    replica = run(db, deployment)
    quotas.put(db, workspace.id, 0)
    replicas.end(db, replica.id, replica.fence)
    sweep(db)
    assert (deployment.state, deployment.error["code"]) == ("error", "quota")
    quotas.put(db, workspace.id, 1)
    service.start(db, workspace.id, deployment.id)
    sweep(db)
    assert deployment.state == "starting"


def test_engines_share_a_device_by_memory(db: Session, who: Principal) -> None:
    make_node(db, devices=1)
    for name in ("a", "b"):
        service.create(db, who, body(make_model(db), name=name))
    sweep(db)
    leases = db.scalars(select(Lease)).all()
    assert len({lease.device_id for lease in leases}) == 1
    assert all(not lease.exclusive and 2 * GIB < lease.bytes < 3 * GIB for lease in leases)


@pytest.mark.parametrize(
    "name", ["Mood", "", "-x", "a b", "../x", "x" * 64, "名字", "a/b", "a\x00"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError):
        DeploymentCreate(name=name, model="m")


def test_foreign_things_are_not_found(db: Session, workspace: Workspace, who: Principal) -> None:
    other = make_workspace(db)
    with pytest.raises(NotFound):
        service.create(db, who, body(make_model(db, other)))
    theirs = service.create(db, principal(db, other), body(make_model(db)))
    assert service.route(db, workspace.id, "mood") is None
    for action in (service.get, service.stop, service.start, service.delete):
        with pytest.raises(NotFound):
            action(db, workspace.id, theirs.id)
    service.create(db, who, body(make_model(db)))  # the same name, in another workspace


def test_two_at_once_with_one_name(db: Session, who: Principal) -> None:
    model = make_model(db)
    db.commit()
    with Session(db.get_bind()) as other:
        service.create(db, who, body(model))
        threading.Timer(0.3, db.commit).start()
        with pytest.raises(Conflict):
            service.create(other, who, body(model))


def test_a_refusal_leaves_nothing(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db, devices=1)
    db.commit()
    with pytest.raises(Invalid):
        service.create(db, who, body(make_model(db), devices=3))
    db.rollback()
    for table in (Deployment, DeploymentEvent, Replica, Request, ModelPin):
        assert db.scalar(select(func.count()).select_from(table)) == 0


# -- adapters and merging ----------------------------------------------------------------


def test_an_adapter_on_its_base(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    adapter = make_adapter(db, workspace)
    deployment = service.create(db, who, body(adapter))
    assert (deployment.mode, deployment.max_model_len) == ("adapter", 512)
    sweep(db)
    facts = replicas.start_facts(db, only(db, deployment).id, 1)
    base = db.get_one(Model, adapter.base_id)
    assert (facts.model, facts.adapter, facts.rank) == (base.artefact, adapter.artefact, 16)


def test_merged_waits_for_the_merge(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    adapter = make_adapter(db, workspace)
    deployment = service.create(db, who, body(adapter, mode="merged"))
    sweep(db)
    assert (deployment.state, deployment.reason) == ("pending", "merging")
    assert replicas_of(db, deployment.id) == []
    job = db.get_one(Job, deployment.merge_job_id)
    assert (job.stage, job.model_id) == ("merge", adapter.id)
    again = service.create(db, who, body(adapter, mode="merged", name="again"))
    assert again.merge_job_id == job.id
    merged = make_model(db, workspace, kind="merged", parent_id=adapter.id)
    job.state, job.result_model_id = "succeeded", merged.id
    db.flush()
    sweep(db)
    assert deployment.served_model_id == merged.id
    assert {pin.owner_id for pin in models.pins(db, merged.id)} == {deployment.id, again.id}
    assert replicas.start_facts(db, only(db, deployment).id, 1).model == merged.artefact
    third = service.create(db, who, body(adapter, mode="merged", name="third"))
    assert (third.served_model_id, third.merge_job_id) == (merged.id, None)
    service.delete(db, workspace.id, third.id)
    assert len(models.pins(db, merged.id)) == 2


def test_a_merge_that_fails_is_told_and_can_be_repeated(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    deployment = service.create(db, who, body(make_adapter(db, workspace), mode="merged"))
    job = db.get_one(Job, deployment.merge_job_id)
    job.state = "failed"
    db.flush()
    sweep(db)
    assert (deployment.state, deployment.error["params"]["job"]) == ("error", job.id)
    service.start(db, workspace.id, deployment.id)
    assert deployment.merge_job_id != job.id
    assert (deployment.state, deployment.reason) == ("pending", "merging")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 1024}, "rank 1024"),
        ({"rank_pattern": {"q_proj": 600}}, "rank 600"),
        ({"r": 0}, "rank 0"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"target_parameters": ["experts.w"]}, "target_parameters"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_what_vllm_cannot_serve_is_told_and_merged_offered(
    db: Session, workspace: Workspace, who: Principal, config: dict[str, Any], named: str
) -> None:
    adapter = make_adapter(db, workspace, **config)
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(adapter, mode="adapter"))
    assert named in str(refusal.value)
    assert "merged" in str(refusal.value)
    assert refusal.value.field == "mode"
    assert service.create(db, who, body(adapter)).mode == "merged"


def test_ranks_are_rounded_up() -> None:
    ranks = [sizing.check_adapter(LORA | {"r": rank}) for rank in (1, 2, 8, 9, 64, 300, 512)]
    assert ranks == [1, 8, 8, 16, 64, 320, 512]
    assert sizing.check_adapter(LORA | {"rank_pattern": {"v_proj": 40}}) == 64
    assert sizing.check_adapter(LORA | {"init_lora_weights": "gaussian"}) == 16


def test_without_vllm_adapters_are_merged_and_it_is_said(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    why = {"available": False, "reason": "no module named vllm", "version": ""}
    make_node(db, facts={"engines": {"vllm": why, "transformers": {"available": True}}})
    adapter = make_adapter(db, workspace)
    found = plan(db, workspace.id, adapter.id)
    assert (found.engine, found.mode, found.forced) == ("transformers", "merged", True)
    assert found.why_not_vllm == "no module named vllm"
    deployment = service.create(db, who, body(adapter))
    assert deployment.mode == "merged"
    assert any("cannot serve adapters" in message for message in messages(db, deployment))
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(adapter, name="b", mode="adapter"))
    assert refusal.value.field == "mode"
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(make_model(db), name="c", engine="vllm"))
    assert refusal.value.field == "engine"


def test_a_whole_model_has_no_adapter_mode(db: Session, who: Principal) -> None:
    with pytest.raises(Invalid):
        service.create(db, who, body(make_model(db), mode="adapter"))
    assert service.create(db, who, body(make_model(db), mode="merged")).mode == "base"


# -- sizes -------------------------------------------------------------------------------


def test_the_estimate_follows_the_model(db: Session) -> None:
    model = make_model(db, parameters=494_000_000, size=988_000_000, context_length=32768)
    store(
        model,
        "config.json",
        {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
         "hidden_size": 896},
    )  # fmt: skip
    found = sizing.estimate(model, None, engine="vllm", max_model_len=8192)
    assert found.weights == 988_000_000
    assert found.cache == 8 * 8192 * 2 * 24 * 2 * 64 * 2  # 768 MiB
    longer = sizing.estimate(model, None, engine="vllm", max_model_len=16384)
    assert longer.cache == 2 * found.cache
    other = sizing.estimate(model, None, engine="transformers", max_model_len=8192)
    assert other.total < found.total
    assert sizing.usual_length(model) == 8192


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "x", "head_dim": -1}, {"a": []}])
def test_a_config_that_says_nothing_still_has_a_size(config: dict[str, Any]) -> None:
    assert sizing.cache_bytes(config, 1024) >= 256 * 2**20


def test_the_context_has_an_end(db: Session, who: Principal) -> None:
    model = make_model(db, context_length=2048)
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(model, max_model_len=4096))
    assert refusal.value.field == "max_model_len"
    assert service.create(db, who, body(model, max_model_len=1024)).max_model_len == 1024


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
