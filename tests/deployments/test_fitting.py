"""Whether it fits into the memory that is free now, and what would make it fit."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.cluster.tables import Device
from app.db import now
from app.deployments import editing, fitting, service
from app.deployments.plans import Plan, plan
from app.deployments.remedies import remedies
from app.deployments.revisions import current
from app.errors import Invalid
from app.models.tables import Model
from app.quotas import service as quotas
from tests.deployments.acts import body, run, store, sweep
from tests.factories import GIB, make_device, make_model, make_node

CONFIG = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "hidden_size": 4096, "vocab_size": 128_256,
}  # fmt: skip


@pytest.fixture
def model(db: Session) -> Model:
    """As Llama 3 8B: 15 GiB of weights, 128 KiB of cache a token."""
    made = make_model(
        db, name="llama", parameters=8_030_000_000, size=16_060_000_000, context_length=131072
    )
    store(made, "config.json", CONFIG)
    return made


def cards(db: Session, *sizes: int, kind: str = "cuda", **more: Any) -> list[Device]:
    node = make_node(db, devices=0)
    return [
        make_device(db, node, name=f"{kind}:{index}", kind=kind, memory=size * GIB, **more)
        for index, size in enumerate(sizes)
    ]


def think(db: Session, workspace: Workspace, model: Model, **asked: Any) -> tuple[Plan, Any]:
    found = plan(db, workspace.id, model.id, **asked)
    return found, fitting.fit(db, workspace.id, found)


def changes(fit: Any) -> list[dict[str, Any]]:
    return [fix.changes for fix in fit.fixes]


def test_before_any_node(db: Session, workspace: Workspace, model: Model) -> None:
    assert think(db, workspace, model)[1].when == "unknown"


def test_it_fits_now(db: Session, workspace: Workspace, model: Model) -> None:
    cards(db, 40)
    found, fit = think(db, workspace, model)
    assert (fit.when, fit.fixes, fit.refusal) == ("now", [], None)
    assert fit.need == found.estimate.total
    assert fit.free == 40 * GIB


def test_programs_that_are_not_ours_count(db: Session, workspace: Workspace, model: Model) -> None:
    (card,) = cards(db, 40, stats={"memory": 30 * GIB})
    _, fit = think(db, workspace, model)
    assert (fit.when, fit.free) == ("later", 10 * GIB)
    card.stats = {"memory": 18 * GIB}  # 22 GiB are left: enough with a shorter context
    _, fit = think(db, workspace, model)
    assert fit.when == "later"
    lengths = [one["max_model_len"] for one in changes(fit) if set(one) == {"max_model_len"}]
    assert 4096 <= lengths[0] < 8192
    assert think(db, workspace, model, max_model_len=lengths[0])[1].when == "now"
    assert {"arguments.max_num_seqs": 4} in changes(fit)
    assert {"quantization": "fp8_per_tensor"} in changes(fit)


def test_leases_count_once(db: Session, workspace: Workspace, who: Principal, model: Model) -> None:
    (card,) = cards(db, 40)
    deployment = service.create(db, who, body(model))
    replica = run(db, deployment)
    lease = cluster.leases_of(db, "replica", replica.id)[0]
    card.stats = {"memory": lease.bytes}  # the engine takes what it leased
    _, fit = think(db, workspace, model)
    assert (fit.when, fit.free) == ("later", 40 * GIB - lease.bytes)
    found = editing.planned(db, deployment, current(deployment))
    assert editing.gap(db, deployment, found)[0].when == "now"
    assert editing.gap(db, deployment, found)[1] is True


@pytest.mark.parametrize("sizes", [(24,), (16, 16), (12, 12, 12, 12)])
def test_what_never_fits_names_what_would(
    db: Session, workspace: Workspace, who: Principal, model: Model, sizes: tuple[int, ...]
) -> None:
    cards(db, *sizes)
    asked = {"max_model_len": 32768}
    _, fit = think(db, workspace, model, **asked)
    assert fit.when == "never"
    assert fit.fixes
    for fix in fit.fixes:
        arguments = {
            name.partition(".")[2]: value for name, value in fix.changes.items() if "." in name
        }
        plain = {name: value for name, value in fix.changes.items() if "." not in name}
        made = think(db, workspace, model, **asked | plain, arguments=arguments)[1]
        assert (made.when, made.need) == ("now", fix.need), fix
    if len(sizes) > 1:
        assert any("devices" in one for one in changes(fit))
    with pytest.raises(Invalid) as refusal:
        service.create(db, who, body(model, **asked))
    assert refusal.value.code == "memory"


def test_the_length_is_named(db: Session, workspace: Workspace, model: Model) -> None:
    cards(db, 24)
    refusal = think(db, workspace, model, max_model_len=131072)[1].refusal
    assert refusal.field == "max_model_len"
    length = refusal.params["length"]
    assert think(db, workspace, model, max_model_len=length)[1].when == "now"
    assert think(db, workspace, model, max_model_len=length + 256)[1].when == "never"


def test_a_share_of_a_device(
    db: Session, workspace: Workspace, who: Principal, model: Model
) -> None:
    cards(db, 80)
    found, fit = think(db, workspace, model, memory=30 * GIB)
    assert fit.when == "now"
    rest = 30 * GIB - found.estimate.weights - found.estimate.overhead
    assert found.estimate.cache == rest
    deployment = service.create(db, who, body(model, memory=30 * GIB))
    sweep(db)
    (lease,) = cluster.leases_of(
        db, "replica", service.replicas(db, [deployment])[deployment.id][0].id
    )
    assert (lease.bytes, lease.exclusive) == (30 * GIB, False)
    _, fit = think(db, workspace, model, memory=10 * GIB)
    assert (fit.when, fit.refusal.field) == ("never", "memory")
    more = changes(fit)[0]["memory"]
    assert think(db, workspace, model, memory=more)[1].when == "now"
    assert think(db, workspace, model, memory=100 * GIB)[1].when == "never"
    with pytest.raises(Invalid):
        plan(db, workspace.id, model.id, memory=GIB * 30, exclusive=True)


def test_whole_devices(db: Session, workspace: Workspace, who: Principal, model: Model) -> None:
    cards(db, 80)
    deployment = service.create(db, who, body(model, exclusive=True))
    sweep(db)
    (lease,) = cluster.leases_of(
        db, "replica", service.replicas(db, [deployment])[deployment.id][0].id
    )
    assert lease.exclusive
    assert think(db, workspace, model)[1].when == "later"
    assert think(db, workspace, model, exclusive=True)[1].when == "later"


def test_quantised_weights_are_smaller(db: Session, workspace: Workspace, model: Model) -> None:
    cards(db, 80)
    plain, _ = think(db, workspace, model)
    fp8, _ = think(db, workspace, model, quantization="fp8_per_tensor")
    embeddings = 2 * CONFIG["vocab_size"] * CONFIG["hidden_size"]
    assert fp8.estimate.weights == model.parameters + embeddings  # those keep their 16 bits
    assert plain.estimate.weights == 2 * model.parameters
    half, _ = think(db, workspace, model, arguments={"kv_cache_dtype": "fp8"})
    assert half.estimate.cache == plain.estimate.cache // 2


def test_quota_is_said(db: Session, workspace: Workspace, model: Model) -> None:
    cards(db, 80, 80)
    quotas.put(db, workspace.id, 1)
    db.flush()
    assert think(db, workspace, model, devices=2)[1].when == "later"


def test_nodes_that_are_away_are_not_free(db: Session, workspace: Workspace, model: Model) -> None:
    (card,) = cards(db, 80)
    card.healthy = False
    db.flush()
    _, fit = think(db, workspace, model)
    assert (fit.when, fit.free) == ("later", 0)


# -- errors ------------------------------------------------------------------------------


def error(code: str, **params: str) -> dict[str, Any]:
    return {"code": code, "message": "x", "params": params}


def test_errors_become_changes(
    db: Session, workspace: Workspace, who: Principal, model: Model
) -> None:
    (card, _) = cards(db, 80, 80)
    deployment = service.create(db, who, body(model))

    def helps(code: str, **params: str) -> list[dict[str, Any]]:
        return remedies(db, deployment, current(deployment), error(code, **params))

    assert helps("context_too_long", suggested="5120") == [{"max_model_len": 5120}]
    assert helps("sampler_memory")[0] == {"arguments.max_num_seqs": 64}
    assert helps("out_of_memory") == [
        {"quantization": "fp8_per_tensor"}, {"max_model_len": 4096}, {"devices": 2}
    ]  # fmt: skip
    assert helps("architecture") == [{"engine": "transformers"}]
    assert helps("remote_code") == helps("context_too_long", suggested="x; rm")[3:] == []
    assert remedies(db, deployment, current(deployment), None) == []
    card.stats = {"memory": 60 * GIB, "at": now().isoformat()}
    db.flush()


def test_one_click_starts_again_with_the_change(
    db: Session, workspace: Workspace, who: Principal, model: Model
) -> None:
    from app.deployments import replicas
    from tests.deployments.acts import only

    cards(db, 80)
    deployment = service.create(db, who, body(model, arguments={"seed": 3}))
    sweep(db)
    replica = only(db, deployment)
    replicas.end(
        db,
        replica.id,
        replica.fence,
        error("context_too_long", suggested="5120") | {"permanent": True},
    )
    assert deployment.state == "error"
    editing.fix(db, who, deployment.id, {"max_model_len": 5120, "arguments": {"max_num_seqs": 4}})
    assert (deployment.state, deployment.revision, deployment.previous) == ("pending", 2, None)
    assert deployment.max_model_len == 5120
    assert deployment.arguments == {"seed": 3, "max_num_seqs": 4}
    sweep(db)
    assert replicas.start_facts(db, only(db, deployment).id, 1).max_model_len == 5120
