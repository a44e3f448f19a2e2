"""Adapters that the engines of another deployment carry: who carries whom, and what follows."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster.tables import Request
from app.db import now
from app.deployments import adapters, carrying, editing, idle, replicas, revisions, service
from app.deployments.carrying import Work
from app.deployments.plans import plan
from app.deployments.tables import Deployment, Replica
from app.errors import Conflict, Invalid, NotFound
from app.models.tables import Model
from tests.deployments.acts import body, messages, only, run, started, sweep
from tests.deployments.speakers import make_base, make_tuned, place, say
from tests.factories import make_model, make_node, make_workspace
from tests.jobs.people import principal


@pytest.fixture
def base(db: Session) -> Model:
    make_node(db, id="node-1", devices=4)
    return make_base(db, name="plain")


@pytest.fixture
def host(db: Session, who: Principal, base: Model) -> Deployment:
    """The base, served and ready."""
    made = service.create(db, who, body(base, name="host"))
    run(db, made)
    return made


def deploy(db: Session, who: Principal, model: Model, name: str, **more: Any) -> Deployment:
    return service.create(db, who, body(model, name=name, **more))


def work(db: Session, node: str = "node-1") -> list[Work]:
    return carrying.to_do(db, node)


def do(db: Session) -> None:
    """Play the node: all that is to be loaded and unloaded, at once."""
    for one in work(db):
        for guest in one.unload:
            assert carrying.mark_unloaded(db, one.replica_id, one.fence, guest.id)
        for guest in one.load:
            assert carrying.mark_loaded(db, one.replica_id, one.fence, guest.id, seconds=0.2)


def test_an_adapter_moves_in_with_its_base(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    assert (host.adapters, host.adapter_rank) == (64, 32)
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    assert (guest.host_id, guest.state, guest.replicas) == (host.id, "starting", 0)
    assert guest.max_model_len == host.max_model_len
    asked = select(Request.owner_id).where(Request.owner_kind == "replica")
    assert set(db.scalars(asked)) <= {only(db, host).id}  # no devices for the guest
    found = service.route(db, who.workspace_id, "mood")
    assert found
    assert not found.replicas

    (todo,) = work(db)
    assert [one.name for one in todo.load] == ["mood"]
    do(db)
    assert guest.state == "ready"
    assert work(db) == []
    found = service.route(db, who.workspace_id, "mood")
    assert found
    (way,) = found.replicas
    assert (way.id, way.served_name) == (only(db, host).id, "mood")
    assert way.sends == {}  # as its base in all
    assert "mood" in [one.name for one in service.names(db, who.workspace_id)]
    assert "Loaded into replica 1 in 0.2 s." in messages(db, guest)
    sweep(db)
    assert guest.state == "ready"


def test_a_new_start_carries_nothing_until_it_is_loaded_again(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    do(db)
    replica = only(db, host)
    old = (replica.id, replica.fence)
    assert replicas.end(db, *old)
    sweep(db)
    assert guest.state == "starting"
    started(db, replica)
    assert replicas.mark(db, replica.id, replica.fence, state="ready")
    found = service.route(db, who.workspace_id, "mood")
    assert found
    assert not found.replicas
    assert not carrying.mark_loaded(db, *old, guest.id, seconds=1)  # a late word of the old start
    do(db)
    assert guest.state == "ready"


def test_who_cannot_be_carried_gets_an_engine_of_its_own(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    large = make_tuned(db, workspace, base, r=48)
    other = make_tuned(db, workspace, base)
    say(other, "chat_template.jinja", "{{ messages[0].content }}")
    short = make_tuned(db, workspace, base)
    say(short, "generation_config.json", {"eos_token_id": [2]})  # its base ends at 0 as well
    for model, word in ((large, "rank"), (other, "template"), (short, "ends answers")):
        found = plan(db, who.workspace_id, model.id)
        assert (found.place.host, found.mode) == (None, "adapter")
        assert found.place.refusal
        assert word in found.place.refusal[0]
        with pytest.raises(Invalid) as refusal:
            adapters.add(db, who, host.id, "here", model.id)
        assert refusal.value.code == "not_carried"
    alone = deploy(db, who, large, "large")
    assert (alone.host_id, alone.adapter_rank) == (None, 64)
    asked = deploy(db, who, make_tuned(db, workspace, base), "alone", own_engine=True)
    assert asked.host_id is None
    words = make_tuned(db, workspace, base)
    say(words, "tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})
    assert plan(db, who.workspace_id, words.id).mode == "merged"
    dora = make_tuned(db, workspace, base, use_dora=True)
    with pytest.raises(Invalid, match="use_dora"):
        adapters.add(db, who, host.id, "dora", dora.id)


def test_stops_and_sampling_of_its_own_are_sent(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    model = make_tuned(db, workspace, base)
    say(model, "generation_config.json", {"eos_token_id": [2, 0, 7], "temperature": 0.7})
    guest = deploy(db, who, model, "mood")
    assert guest.host_id == host.id
    assert guest.sends == {"stop_token_ids": [7], "temperature": 0.7, "top_p": 1.0}
    bare = deploy(db, who, make_tuned(db, workspace, base, words=False), "bare")
    assert bare.sends == {}


def test_an_adapter_on_an_engine_of_its_own_carries_others(
    db: Session, workspace: Workspace, who: Principal, base: Model
) -> None:
    first = deploy(db, who, make_tuned(db, workspace, base), "first")
    assert (first.host_id, first.adapters) == (None, 64)
    second = deploy(db, who, make_tuned(db, workspace, base), "second")
    assert (second.host_id, second.state) == (first.id, "starting")
    stranger = principal(db, make_workspace(db))
    theirs = service.create(db, stranger, body(base, name="host"))
    assert theirs.host_id is None
    with pytest.raises(NotFound):
        adapters.add(db, stranger, first.id, "x", base.id)


def test_a_host_with_guests_is_not_taken_away(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    do(db)
    for act in (service.stop, service.delete):
        with pytest.raises(Conflict) as refusal:
            act(db, who.workspace_id, host.id)
        assert refusal.value.params["guests"] == "mood"
    service.stop(db, who.workspace_id, guest.id)
    assert guest.state == "stopping"
    do(db)
    assert guest.state == "stopped"
    service.stop(db, who.workspace_id, host.id)
    service.start(db, who.workspace_id, guest.id)
    assert (guest.host_id, guest.replicas, guest.adapters) == (None, 1, 64)
    sweep(db)
    assert guest.state == "starting"


def test_a_deleted_guest_is_unloaded_and_its_name_free(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    do(db)
    service.delete(db, who.workspace_id, guest.id)
    again = deploy(db, who, make_tuned(db, workspace, base), "mood")
    (todo,) = work(db)
    assert ([one.id for one in todo.unload], [one.id for one in todo.load]) == (
        [guest.id],
        [again.id],
    )
    do(db)
    sweep(db)
    assert (guest.state, again.state) == ("stopped", "ready")


def test_the_least_recently_used_makes_room(
    db: Session, workspace: Workspace, who: Principal, base: Model
) -> None:
    host = deploy(db, who, base, "host", adapters=2)
    run(db, host)
    names = ("a", "b", "c")
    made = {name: deploy(db, who, make_tuned(db, workspace, base), name) for name in names[:2]}
    do(db)
    for age, guest in enumerate(made.values()):  # both long ago, and a before b
        guest.created_at = guest.asked_at = now() - timedelta(hours=2 - age)
    made["a"].last_used_at = now() - timedelta(minutes=5)
    db.flush()
    made["c"] = deploy(db, who, make_tuned(db, workspace, base), "c")
    do(db)
    assert [made[name].state for name in names] == ["ready", "idle", "ready"]
    assert idle.wake(db, made["b"].id)
    do(db)
    assert [made[name].state for name in names] == ["idle", "ready", "ready"]
    assert "a" in [one.name for one in service.names(db, who.workspace_id)]
    asleep = service.route(db, who.workspace_id, "a")
    assert asleep
    assert asleep.asleep  # a request for it waits until it is loaded again


def test_a_guest_sleeps_and_wakes_with_its_host(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    do(db)
    idle.sleep(db, who.workspace_id, host.id)
    replica = only(db, host)
    replicas.end(db, replica.id, replica.fence)
    sweep(db)
    assert (host.state, guest.state) == ("idle", "idle")
    found = service.route(db, who.workspace_id, "mood")
    assert found
    assert found.asleep
    assert idle.wake(db, guest.id)
    assert (host.desired, guest.state) == ("running", "starting")
    run(db, host)
    do(db)
    assert (guest.state, guest.idled_at) == ("ready", None)
    idle.touch(db, [guest.id, only(db, host).id])  # as the gateway does at a look-up
    assert db.get_one(Deployment, host.id, populate_existing=True).last_used_at


def test_what_the_engine_refuses_is_the_guests_error(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    (todo,) = work(db)
    error = {"code": "adapter_refused", "message": "No: %(why)s", "params": {"why": "x"}}
    carrying.mark_loaded(db, todo.replica_id, todo.fence, guest.id, seconds=0.1, error=error)
    assert (guest.state, guest.reason, host.state) == ("error", "adapter_refused", "ready")
    assert work(db) == []
    sweep(db)
    assert guest.state == "error"
    service.start(db, who.workspace_id, guest.id)
    assert guest.state == "starting"
    do(db)
    assert (guest.state, guest.error) == ("ready", None)


def test_a_model_that_cannot_load_adapters_starts_without_room(
    db: Session, who: Principal, base: Model
) -> None:
    host = deploy(db, who, base, "host")
    sweep(db)
    replica = only(db, host)
    started(db, replica)
    error = {"code": "no_lora", "message": "No.", "params": {}, "advice": "", "permanent": False}
    assert replicas.end(db, replica.id, replica.fence, error)
    assert (host.adapters, replica.state) == (0, "pending")
    assert db.get_one(Replica, replica.id).retry_at


def test_room_follows_the_ranks_there_are_and_the_size(
    db: Session, workspace: Workspace, who: Principal, base: Model
) -> None:
    make_tuned(db, workspace, base, r=100)
    make_tuned(db, workspace, base, r=300, use_dora=True)  # never on its base
    assert plan(db, who.workspace_id, base.id).room.rank == 128
    assert plan(db, who.workspace_id, base.id, adapters=0).room.adapters == 0
    experts = make_model(db, artefact="models/experts", size=200 * 2**20)
    wide = {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 40,
            "num_experts": 128, "moe_intermediate_size": 1536, "vocab_size": 1000}  # fmt: skip
    place(experts).mkdir(parents=True)
    say(experts, "config.json", wide)
    assert plan(db, who.workspace_id, experts.id).room.adapters == 0


def test_a_guest_has_no_settings_of_its_own(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    for change in (
        lambda: editing.edit(db, who, guest.id, {"max_model_len": 128}),
        lambda: editing.scale(db, who.workspace_id, guest.id, 2),
    ):
        with pytest.raises(Conflict) as refusal:
            change()
        assert refusal.value.code == "carried"
    kept = editing.planned(db, host, revisions.current(host))
    assert (kept.place.host, kept.room.adapters) == (None, 64)


def test_a_host_without_vllm_cannot_carry(
    db: Session, workspace: Workspace, who: Principal, base: Model, host: Deployment
) -> None:
    guest = deploy(db, who, make_tuned(db, workspace, base), "mood")
    only(db, host).engine = "transformers"
    db.flush()
    assert work(db) == []
    sweep(db)
    assert (guest.state, guest.reason) == ("error", "adapter")
