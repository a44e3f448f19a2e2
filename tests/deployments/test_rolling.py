"""From one revision to the next: beside, one by one, back again; and more or fewer replicas."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.db import now
from app.deployments import editing, replicas, revisions, rolling, service
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, Replica, ReplicaLog
from app.errors import Conflict, Invalid, NotFound
from app.quotas import service as quotas
from tests.deployments.acts import body, messages, started, sweep
from tests.factories import make_model, make_node, make_workspace
from tests.jobs.people import principal

DIED = {"code": "died", "message": "It died.", "params": {}, "advice": "Look."}


def serving(db: Session, who: Principal, **more: Any) -> Deployment:
    """A deployment all of whose replicas are ready."""
    deployment = service.create(db, who, body(make_model(db), **more))
    settle(db, deployment)
    assert deployment.state == "ready"
    return deployment


def settle(db: Session, deployment: Deployment, turns: int = 8) -> None:
    """Sweep, and play the node: what is scheduled becomes ready, what is asked to leave goes."""
    for _ in range(turns):
        sweep(db)
        play(db, deployment)


def play(db: Session, deployment: Deployment) -> None:
    for replica in replicas_of(db, deployment.id):
        if replica.state == "scheduled":
            started(db, replica)
            replicas.mark(db, replica.id, replica.fence, state="ready")
        elif replica.state == "stopping":
            replicas.end(db, replica.id, replica.fence)


def now_as(db: Session, deployment: Deployment) -> list[tuple[int, int, str]]:
    return [(one.revision, one.index, one.state) for one in replicas_of(db, deployment.id)]


def ready(db: Session, workspace: Workspace) -> set[str]:
    return {one.id for one in service.route(db, workspace.id, "mood").replicas}


def test_beside_the_old_one(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = serving(db, who)
    (old,) = replicas_of(db, deployment.id)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    assert (deployment.revision, deployment.previous, deployment.max_model_len) == (2, 1, 512)
    sweep(db)
    assert now_as(db, deployment) == [(1, 0, "ready"), (2, 0, "scheduled")]
    assert deployment.state == "ready"
    old_one, new = replicas_of(db, deployment.id)
    assert replicas.start_facts(db, new.id, 1).max_model_len == 512
    started(db, new)
    assert ready(db, workspace) == {old.id}
    db.info["outbox"].clear()
    assert replicas.mark(db, new.id, 1, state="ready")
    assert db.info["outbox"][-1][0] == "workers.sweep"
    assert ready(db, workspace) == {old.id, new.id}
    sweep(db)
    assert (old_one.state, deployment.previous) == ("stopping", None)
    assert old_one.drain_until > now()
    assert ready(db, workspace) == {new.id}
    assert replicas.end(db, old.id, old.fence)
    assert now_as(db, deployment) == [(2, 0, "ready")]
    assert deployment.state == "ready"
    assert revisions.get(db, deployment, 2).ready_at is not None
    assert "Revision 2 runs now." in messages(db, deployment)
    assert len(cluster.leases_of(db, "replica", old.id)) == 0
    sweep(db)
    assert now_as(db, deployment) == [(2, 0, "ready")]


def test_what_changes_nothing_makes_no_revision(db: Session, who: Principal) -> None:
    make_node(db)
    deployment = serving(db, who)
    editing.edit(db, who, deployment.id, {"max_model_len": 2048, "engine": "auto"})
    editing.edit(db, who, deployment.id, {})
    assert deployment.revision == 1
    with pytest.raises(Invalid):
        editing.edit(db, who, deployment.id, {"max_model_len": 4096})
    with pytest.raises(Invalid):
        editing.edit(db, who, deployment.id, {"devices": 9})


@pytest.mark.parametrize("permanent", [True, False])
def test_it_goes_back_by_itself(
    db: Session, workspace: Workspace, who: Principal, permanent: bool
) -> None:
    make_node(db)
    deployment = serving(db, who)
    (old,) = replicas_of(db, deployment.id)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    for tries in range(1, 2 if permanent else 4):
        sweep(db)
        new = replicas_of(db, deployment.id)[1]
        started(db, new)
        replicas.end(db, new.id, new.fence, DIED | {"permanent": permanent})
        assert new.failures == tries
        assert deployment.state == "ready"
        assert ready(db, workspace) == {old.id}
        new.retry_at = new.retry_at and now()
    assert (deployment.revision, deployment.previous, deployment.max_model_len) == (1, None, 2048)
    assert now_as(db, deployment) == [(1, 0, "ready")]
    assert revisions.get(db, deployment, 2).error["code"] == "died"
    assert any("Revision 2 did not start" in one for one in messages(db, deployment))
    sweep(db)
    assert now_as(db, deployment) == [(1, 0, "ready")]
    # its log can still be read, and the next change is another revision
    assert service.log(db, new)[0] == new.fence
    editing.edit(db, who, deployment.id, {"max_model_len": 1024})
    assert (deployment.revision, deployment.previous) == (3, 1)


def test_one_by_one_where_there_is_no_room(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    """Two whole devices, two replicas: at no time does nobody answer."""
    make_node(db, devices=2)
    deployment = serving(db, who, replicas=2, exclusive=True)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    least = 2
    for _ in range(12):
        sweep(db)
        least = min(least, len(ready(db, workspace)))
        play(db, deployment)
    assert least == 1
    assert now_as(db, deployment) == [(2, 0, "ready"), (2, 1, "ready")]
    assert deployment.previous is None
    assert sum("no room for both" in one for one in messages(db, deployment)) == 2


def test_a_single_one_without_room_stops_first(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db, devices=1)
    deployment = serving(db, who, exclusive=True)
    found = editing.planned(db, deployment, revisions.current(deployment))
    assert editing.gap(db, deployment, found)[1]
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    sweep(db)
    assert now_as(db, deployment) == [(1, 0, "ready"), (2, 0, "pending")]
    sweep(db)
    assert now_as(db, deployment) == [(1, 0, "stopping"), (2, 0, "pending")]
    play(db, deployment)
    sweep(db)
    assert now_as(db, deployment) == [(2, 0, "scheduled")]
    new = replicas_of(db, deployment.id)[0]
    started(db, new)
    replicas.end(db, new.id, new.fence, DIED | {"permanent": True})
    assert deployment.revision == 1
    settle(db, deployment)
    assert now_as(db, deployment) == [(1, 0, "ready")]


def test_others_may_take_what_was_given_back(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    """The device of the replica that left is gone to a job: the last one stays."""
    make_node(db, devices=2)
    deployment = serving(db, who, replicas=2, exclusive=True)
    cluster.ask(db, owner_kind="job", owner_id="job_x", workspace_id=workspace.id, devices=1)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    settle(db, deployment)
    assert [state for _, _, state in now_as(db, deployment)] == ["ready", "pending", "pending"]
    assert deployment.previous == 1
    cluster.release(db, "job", "job_x")
    settle(db, deployment)
    assert now_as(db, deployment) == [(2, 0, "ready"), (2, 1, "ready")]


def test_quota_allows_no_second_one(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db, devices=2)
    quotas.put(db, workspace.id, 1)
    deployment = serving(db, who)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    settle(db, deployment)
    assert now_as(db, deployment) == [(2, 0, "ready")]


def test_called_off_and_rolled_back(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = serving(db, who)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    sweep(db)
    editing.rollback(db, who, deployment.id, 1)
    assert (deployment.revision, deployment.previous) == (1, None)
    settle(db, deployment)
    assert now_as(db, deployment) == [(1, 0, "ready")]
    editing.rollback(db, who, deployment.id, 2)
    assert (deployment.revision, deployment.previous, deployment.max_model_len) == (3, 1, 512)
    settle(db, deployment)
    assert now_as(db, deployment) == [(3, 0, "ready")]
    assert revisions.get(db, deployment, 3).restores == 2
    for number, error in ((3, Conflict), (9, NotFound)):
        with pytest.raises(error):
            editing.rollback(db, who, deployment.id, number)


def test_a_change_on_the_way(db: Session, workspace: Workspace, who: Principal) -> None:
    """A second change before the first has come through: the old one serves until it has."""
    make_node(db)
    deployment = serving(db, who)
    (old,) = replicas_of(db, deployment.id)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    sweep(db)
    editing.edit(db, who, deployment.id, {"max_model_len": 256})
    assert (deployment.revision, deployment.previous) == (3, 1)
    sweep(db)
    assert ready(db, workspace) == {old.id}
    settle(db, deployment)
    assert now_as(db, deployment) == [(3, 0, "ready")]


def test_stopped_and_broken_ones_change_in_place(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    deployment = serving(db, who)
    service.stop(db, workspace.id, deployment.id)
    settle(db, deployment)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    settle(db, deployment)
    assert (deployment.state, deployment.revision, deployment.previous) == ("stopped", 2, None)
    service.start(db, workspace.id, deployment.id)
    settle(db, deployment)
    assert now_as(db, deployment) == [(2, 0, "ready")]

    broken = service.create(db, who, body(make_model(db), name="broken"))
    sweep(db)
    (first,) = replicas_of(db, broken.id)
    started(db, first)
    replicas.end(db, first.id, 1, DIED)
    editing.edit(db, who, broken.id, {"max_model_len": 512})
    assert broken.previous is None
    settle(db, broken)
    assert now_as(db, broken) == [(2, 0, "ready")]


def test_stopped_in_the_middle(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = serving(db, who)
    editing.edit(db, who, deployment.id, {"max_model_len": 512})
    sweep(db)
    service.stop(db, workspace.id, deployment.id)
    settle(db, deployment)
    assert deployment.state == "stopped"
    assert not cluster.leases_of(db, "replica", replicas_of(db, deployment.id)[0].id)
    service.start(db, workspace.id, deployment.id)
    settle(db, deployment)
    assert now_as(db, deployment) == [(2, 0, "ready")]
    service.delete(db, workspace.id, deployment.id)
    settle(db, deployment)
    assert deployment.state == "stopped"


def test_a_draining_one_that_is_stopped_stops_at_once(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    deployment = serving(db, who, replicas=2)
    editing.scale(db, workspace.id, deployment.id, 1)
    second = db.scalar(select(Replica).where(Replica.state == "stopping"))
    assert replicas.running(db, second.id, second.fence).drain_until > now()
    service.stop(db, workspace.id, deployment.id)
    assert replicas.running(db, second.id, second.fence).drain_until is None


def test_more_and_fewer(db: Session, workspace: Workspace, who: Principal) -> None:
    make_node(db)
    deployment = serving(db, who)
    editing.scale(db, workspace.id, deployment.id, 3)
    settle(db, deployment)
    assert [state for *_, state in now_as(db, deployment)] == ["ready"] * 3
    editing.scale(db, workspace.id, deployment.id, 1)
    assert [state for *_, state in now_as(db, deployment)] == ["ready", "stopping", "stopping"]
    assert len(ready(db, workspace)) == 1
    settle(db, deployment)
    assert now_as(db, deployment) == [(1, 0, "ready")]
    editing.scale(db, workspace.id, deployment.id, 2)
    settle(db, deployment)
    assert len(ready(db, workspace)) == 2
    assert "From 3 to 1 replicas." in messages(db, deployment)
    assert deployment.revision == 1
    quotas.put(db, workspace.id, 2)
    with pytest.raises(Invalid):
        editing.scale(db, workspace.id, deployment.id, 3)


def test_what_is_left_of_old_revisions_goes(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    make_node(db)
    deployment = serving(db, who)
    for length in range(100, 100 + rolling.KEPT + 3):
        replica = replicas_of(db, deployment.id)[-1]
        replicas.ship_log(db, replica.id, replica.fence, 0, b"x")
        editing.edit(db, who, deployment.id, {"max_model_len": length})
        settle(db, deployment, 4)
    settle(db, deployment, 1)
    found = db.scalars(select(Replica).where(Replica.deployment_id == deployment.id)).all()
    assert len(found) == rolling.KEPT + 1
    assert len(db.scalars(select(ReplicaLog)).all()) == rolling.KEPT
    assert len(revisions.history(db, deployment.id)) == rolling.KEPT + 4


def test_foreign_ones_are_not_found(db: Session, workspace: Workspace, who: Principal) -> None:
    other = principal(db, make_workspace(db))
    theirs = service.create(db, other, body(make_model(db)))
    for act in (
        lambda: editing.edit(db, who, theirs.id, {"max_model_len": 512}),
        lambda: editing.rollback(db, who, theirs.id, 1),
        lambda: editing.fix(db, who, theirs.id, {}),
        lambda: editing.scale(db, workspace.id, theirs.id, 2),
        lambda: editing.schedule(db, workspace.id, theirs.id, None),
    ):
        with pytest.raises(NotFound):
            act()
