"""What waits, what is refused, how a model is served and what it needs."""

import threading
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.cluster.tables import Lease, Request
from app.deployments import editing, replicas, service, sizing
from app.deployments.plans import plan
from app.deployments.schemas import DeploymentCreate
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, DeploymentEvent, Replica
from app.errors import Conflict, Invalid, NotFound
from app.jobs.tables import Job
from app.models import service as models
from app.models.tables import Model, ModelPin
from app.quotas import service as quotas
from tests.deployments.acts import (
    LORA,
    body,
    make_adapter,
    messages,
    only,
    run,
    store,
    sweep,
)
from tests.factories import GIB, make_device, make_model, make_node, make_workspace
from tests.jobs.people import principal

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
        commit = threading.Timer(0.3, db.commit)
        commit.start()
        with pytest.raises(Conflict):
            service.create(other, who, body(model))
        commit.join()


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
    assert (facts.model, facts.adapter, facts.rank) == (base.artefact, adapter.artefact, 32)


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


def test_a_merge_is_as_urgent_as_who_waits_for_it(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    adapter = make_adapter(db, workspace)
    first = service.create(db, who, body(adapter, mode="merged", priority="low"))
    job = db.get_one(Job, first.merge_job_id)
    request = cluster.waiting(db, "job", job.id)
    assert (job.priority, request.priority) == (cluster.LOW, cluster.LOW)
    second = service.create(db, who, body(adapter, mode="merged", name="second"))
    assert second.merge_job_id == job.id
    assert (job.priority, request.priority) == (cluster.NORMAL, cluster.NORMAL)
    editing.prioritise(db, who, first.id, "high")
    assert (job.priority, request.priority) == (cluster.HIGH, cluster.HIGH)
    editing.prioritise(db, who, first.id, "low")  # the other's matters still
    assert (job.priority, request.priority) == (cluster.HIGH, cluster.HIGH)


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
    shape = sizing.Shape(0, 0, 0, 0, sizing.per_token(config))
    assert shape.cache(1024, 8) >= 256 * 2**20


def test_the_context_has_an_end(db: Session, who: Principal) -> None:
    model = make_model(db, context_length=2048)
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(model, max_model_len=4096))
    assert refusal.value.field == "max_model_len"
    assert service.create(db, who, body(model, max_model_len=1024)).max_model_len == 1024
