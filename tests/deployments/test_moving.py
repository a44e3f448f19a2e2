"""Leaving a node that is to be empty."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.accounts.tables import User
from app.cluster import nodes
from app.cluster import service as cluster
from app.cluster.tables import Node
from app.db import now
from app.deployments import moving, replicas, service
from app.deployments.states import replicas_of
from app.deployments.tables import Replica
from app.jobs import runs
from app.jobs import service as jobs
from tests.deployments.acts import body, messages
from tests.deployments.acts import sweep as reconcile
from tests.deployments.test_rolling import play, ready, serving
from tests.factories import make_job, make_model, make_node, make_workspace
from tests.jobs.people import principal
from workers import sweep as sweeping


@pytest.fixture
def workspace(db):
    return make_workspace(db)


@pytest.fixture
def who(db, workspace):
    return principal(db, workspace)


def sweep(db):
    """The part of it that knows of nodes, and the rest of what a deployment needs."""
    sweeping.empty(db)
    reconcile(db)


def where(db, deployment):
    return sorted(
        (one.node_id or "", one.state, one.moved)
        for one in replicas_of(db, deployment.id)
        if one.state != "stopped"
    )


def test_another_takes_its_place_before_it_leaves(db, workspace, who):
    make_node(db, id="a", devices=1)
    deployment = serving(db, who)
    (old,) = replicas_of(db, deployment.id)
    make_node(db, id="b", devices=1)
    nodes.drain(db, "a", 600)
    sweep(db)
    assert where(db, deployment) == [("a", "ready", True), ("b", "scheduled", False)]
    assert deployment.state == "ready"
    assert ready(db, workspace) == {old.id}, "no gap"
    nodes.drain(db, "a", 600)
    sweep(db)
    assert len(replicas_of(db, deployment.id)) == 2, "asked twice is asked once"
    play(db, deployment)
    sweep(db)
    assert where(db, deployment) == [("a", "stopping", True), ("b", "ready", False)]
    assert old.drain_until > now(), "it finishes what it answers"
    assert old.id not in ready(db, workspace)
    play(db, deployment)
    sweep(db)
    assert where(db, deployment) == [("b", "ready", False)]
    assert not cluster.leases_of(db, "replica", old.id)
    assert "Node a is being emptied: another replica takes the place of 1." in messages(
        db, deployment
    )


def test_only_those_on_the_node_move(db, workspace, who):
    make_node(db, id="a", devices=1)
    make_node(db, id="b", devices=2)
    deployment = serving(db, who, replicas=2)
    there = {one.node_id for one in replicas_of(db, deployment.id)}
    if "a" not in there:  # both on b: empty that one
        nodes.drain(db, "b", 600)
    else:
        nodes.drain(db, "a", 600)
    stays = {one.id for one in replicas_of(db, deployment.id) if one.node_id == "b"}
    for _ in range(6):
        sweep(db)
        play(db, deployment)
    found = [one for one in replicas_of(db, deployment.id) if one.state == "ready"]
    assert {one.node_id for one in found} == {"b"}
    assert stays <= {one.id for one in found}
    assert len(found) == 2


def test_without_room_elsewhere_it_answers_until_the_time_is_over(db, workspace, who):
    make_node(db, id="a", devices=2)
    deployment = serving(db, who)
    (old,) = replicas_of(db, deployment.id)
    nodes.drain(db, "a", 600)
    for _ in range(3):
        sweep(db)
        play(db, deployment)
    assert where(db, deployment) == [("", "pending", False), ("a", "ready", True)]
    assert ready(db, workspace) == {old.id}
    db.get_one(Node, "a").drain_until = now() - timedelta(seconds=1)
    sweep(db)
    assert old.state == "stopping"
    play(db, deployment)
    sweep(db)
    assert old.state == "stopped"
    (waits,) = [one for one in replicas_of(db, deployment.id) if one.state == "pending"]
    assert waits.id != old.id
    assert "No other node could take replica 1 in time: it stops." in messages(db, deployment)
    nodes.cordon(db, "a", cordoned=False)
    moving.stay(db, "a")
    for _ in range(2):
        sweep(db)
        play(db, deployment)
    assert where(db, deployment) == [("a", "ready", False)]


def test_a_drain_that_is_called_off(db, workspace, who):
    make_node(db, id="a", devices=1)
    deployment = serving(db, who)
    (old,) = replicas_of(db, deployment.id)
    nodes.drain(db, "a", 600)
    sweep(db)
    assert old.moved
    nodes.cordon(db, "a", cordoned=False)
    moving.stay(db, "a")
    db.flush()
    sweep(db)
    assert where(db, deployment) == [("a", "ready", False)]
    assert ready(db, workspace) == {old.id}
    nodes.drain(db, "a", 600)
    sweep(db)
    assert old.moved, "and asked again, it goes"


def test_one_that_starts_there_starts_elsewhere(db, workspace, who):
    make_node(db, id="a", devices=1)
    deployment = service.create(db, who, body(make_model(db)))
    sweep(db)
    make_node(db, id="b", devices=1)
    nodes.drain(db, "a", 600)
    sweep(db)
    assert where(db, deployment) == [("a", "stopping", True), ("b", "scheduled", False)]


# -- jobs --------------------------------------------------------------------------------


@pytest.fixture
def job(db, workspace, who):
    make_node(db, id="a", devices=1)
    job = make_job(db, workspace, db.get_one(User, who.user_id))
    jobs.ask(db, job)
    (grant,) = cluster.decide(db)
    runs.grant(db, grant.owner_id, grant.node_id)
    runs.mark_started(db, job.id, job.fence, 2**22, 1.0)
    return job


def test_a_job_saves_and_waits_again(db, job):
    nodes.drain(db, "a", 600)
    sweeping.empty(db)
    assert (job.state, job.reason) == ("pausing", "drained")
    sweeping.empty(db)
    runs.end(db, job.id, job.fence, outcome="stopped")
    assert (job.state, job.reason, job.retries) == ("queued", "drained", 0)
    assert cluster.waiting(db, "job", job.id).granted_at is None
    assert cluster.decide(db) == []


def test_a_job_that_dies_while_it_saves_waits_again_at_no_cost(db, job):
    job.retries = runs.RETRIES
    nodes.drain(db, "a", 600)
    sweeping.empty(db)
    runs.end(db, job.id, job.fence, outcome="died")
    assert (job.state, job.retries) == ("queued", runs.RETRIES)


def test_a_job_that_is_paused_meanwhile_stays_paused(db, job):
    nodes.drain(db, "a", 600)
    sweeping.empty(db)
    jobs.pause(db, job.workspace_id, job.id)
    runs.end(db, job.id, job.fence, outcome="stopped")
    assert job.state == "paused"


def test_a_merge_may_finish_unless_it_takes_too_long(db, job):
    job.stage = "merge"
    nodes.drain(db, "a", 600)
    sweeping.empty(db)
    assert job.state == "running"
    nodes.drain(db, "a", 0)
    sweeping.empty(db)
    assert job.state == "pausing"


def test_moved_replicas_are_told_apart(db, workspace, who):
    """The place in a deployment is one's own; those that make way no longer have one."""
    make_node(db, id="a", devices=1)
    serving(db, who)
    nodes.drain(db, "a", 600)
    sweep(db)
    places = db.execute(select(Replica.index, Replica.moved).order_by(Replica.moved)).all()
    assert places == [(0, False), (0, True)]
    assert replicas.find(db, Replica.moved)[0].state == "ready"
