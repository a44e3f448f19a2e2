"""Running out: warned at 80 and 95 %, then paused with a checkpoint, and going on again."""

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Membership, User, Workspace
from app.alerts.tables import Alert
from app.cluster import service as cluster
from app.db import now
from app.deployments import editing
from app.deployments import service as deployments
from app.deployments.tables import Deployment
from app.errors import DomainError
from app.gateway import routing
from app.jobs import runs
from app.jobs import service as jobs
from app.jobs.tables import Job, JobEvent
from app.quotas import accounts, free, limits, prices, service, spending
from app.quotas.kinds import HOUR
from app.quotas.money_tables import Stopped, Warned
from tests.factories import (
    make_deployment,
    make_job,
    make_model,
    make_node,
    make_principal,
    make_user,
    make_workspace,
)
from workers import spending as running_out


@pytest.fixture
def workspace(db: Session) -> Workspace:
    return make_workspace(db, owner=make_user(db))


@pytest.fixture
def who(db: Session, workspace: Workspace) -> Principal:
    member = db.scalars(select(Membership).where(Membership.workspace_id == workspace.id)).one()
    return make_principal(db.get_one(User, member.user_id), workspace)


def user_of(db: Session, who: Principal) -> User:
    return db.get_one(User, who.user_id)


def spend(db: Session, workspace: Workspace, hours: float) -> None:
    row = {"id": f"lse_{now().timestamp()}", "kind": "device", "workspace_id": workspace.id}
    more = {"owner_kind": "job", "owner_id": "job_0", "device_ms": round(hours * HOUR)}
    service.record(db, [row | more])


def levels(db: Session) -> list[int]:
    return sorted(db.scalars(select(Warned.level)))


def running_job(db: Session, workspace: Workspace, who: Principal) -> Job:
    node = make_node(db)
    job = make_job(db, workspace, user_of(db, who))
    jobs.ask(db, job)
    (grant,) = cluster.decide(db)
    runs.grant(db, job.id, grant.node_id)
    runs.mark_started(db, job.id, job.fence, 1, 1.0)
    assert (job.state, job.node_id) == ("running", node.id)
    return job


def test_a_balance_warns_then_pauses_and_goes_on(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    prices.put(db, "", Decimal(1), "CNY")
    accounts.top_up(db, who, workspace.id, Decimal(10), "CNY")
    job = running_job(db, workspace, who)
    deployment = make_deployment(db, workspace, user_of(db, who), served_model_id=make_model(db).id)
    running_out.watch(db)
    assert levels(db) == []
    spend(db, workspace, 8.2)
    running_out.watch(db)
    running_out.watch(db)
    assert (levels(db), job.state) == ([80], "running")
    spend(db, workspace, 1.5)
    running_out.watch(db)
    assert (levels(db), job.state) == ([80, 95], "running")
    spend(db, workspace, 1)
    running_out.watch(db)
    assert (levels(db), job.state) == ([80, 95, 100], "pausing")
    assert any("balance" in event for event in db.scalars(select(JobEvent.message)))
    assert deployment.desired == "running"
    db.get_one(Stopped, ("deployment", deployment.id)).at -= timedelta(hours=1)
    db.flush()
    running_out.watch(db)
    assert deployment.desired == "idle"
    with pytest.raises(accounts.OutOfMoney):
        spending.refuse_call(db, workspace.id, [])
    runs.end(db, job.id, job.fence, outcome="stopped")
    assert job.state == "paused"
    with pytest.raises(accounts.OutOfMoney):
        jobs.resume(db, workspace.id, job.id)
    accounts.top_up(db, who, workspace.id, Decimal(5), "CNY")
    running_out.watch(db)
    assert (job.state, deployment.desired) == ("queued", "running")
    assert db.scalars(select(Stopped)).all() == []


def test_hours_used_up_pause_what_runs(db: Session, workspace: Workspace, who: Principal) -> None:
    limits.change(db, workspace.id, None, {"device_hours_day": 2})
    job = running_job(db, workspace, who)
    spend(db, workspace, 2.5)
    running_out.watch(db)
    assert (levels(db), job.state) == ([80, 95, 100], "pausing")
    runs.end(db, job.id, job.fence, outcome="stopped")
    with pytest.raises(DomainError, match="used up"):
        spending.refuse_call(db, workspace.id, [])
    limits.change(db, workspace.id, None, {"device_hours_day": 10})
    running_out.watch(db)
    assert (levels(db), job.state) == ([], "queued")


def test_calls_stop_when_the_free_quota_is_used_up(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    model = make_model(db)
    make_deployment(db, workspace, user_of(db, who), name="bot", model_id=model.id)
    free.give(db, model.id, None, "tokens", 100, now().date())
    free.stop(db, workspace.id, model.id, True)
    db.commit()
    assert routing.look(workspace.id, "bot")
    row = {"id": "rq_1", "kind": "tokens", "workspace_id": workspace.id, "prompt_tokens": 100}
    owner = {"owner_kind": "deployment", "owner_id": "dep_1", "model_id": model.id}
    service.record(db, [row | owner])
    db.commit()
    with pytest.raises(DomainError, match="free quota of this model is used up"):
        routing.look(workspace.id, "bot")
    free.stop(db, workspace.id, model.id, False)
    db.commit()
    assert routing.look(workspace.id, "bot")
    assert db.scalars(select(Deployment.state)).all() == ["pending"]


def test_what_is_near_its_end_fires_until_there_is_more(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    limits.change(db, workspace.id, None, {"device_hours_month": 10, "tokens_month": 1000})
    limits.change(db, workspace.id, who.user_id, {"tokens_month": 100})
    spend(db, workspace, 9.6)
    row = {"id": "rq_1", "kind": "tokens", "workspace_id": workspace.id, "user_id": who.user_id}
    owner = {"owner_kind": "deployment", "owner_id": "dep_1", "prompt_tokens": 100}
    service.record(db, [row | owner])
    running_out.watch(db)
    running_out.watch(db)
    fired = db.scalars(select(Alert).where(Alert.resolved_at.is_(None))).all()
    hours, tokens = (
        f"{workspace.id}/device_hours_month",
        f"{workspace.id}/{who.user_id}/tokens_month",
    )
    assert {(one.kind, one.subject) for one in fired} == {
        ("quota_near", f"{hours}/80"),
        ("quota_near", f"{hours}/95"),
        ("quota_near", f"{tokens}/80"),
        ("quota_near", f"{tokens}/95"),
        ("quota_used", f"{tokens}/100"),
    }
    assert {one.workspace_id for one in fired} == {workspace.id}
    first = next(one for one in fired if one.subject == f"{hours}/95")
    assert (first.params["used"], first.params["limit"]) == ("9.60", "10")
    near = spending.near(db, workspace.id, who.user_id)
    assert [(one.name, one.own, one.level) for one in near] == [
        ("tokens_month", True, 100),
        ("device_hours_month", False, 95),
    ]
    assert [one.name for one in spending.near(db, workspace.id, "usr_x")] == ["device_hours_month"]
    limits.change(db, workspace.id, None, {"device_hours_month": "inherit"})
    limits.change(db, workspace.id, who.user_id, {"tokens_month": 120})
    running_out.watch(db)
    still = db.scalars(select(Alert).where(Alert.resolved_at.is_(None))).all()
    assert [one.subject for one in still] == [f"{tokens}/80"]
    assert [one.level for one in spending.near(db, workspace.id, who.user_id)] == [80]


def test_nothing_is_started_by_hand_without_money_or_hours(
    db: Session, workspace: Workspace, who: Principal
) -> None:
    model = make_model(db)
    deployment = make_deployment(
        db, workspace, user_of(db, who), served_model_id=model.id, desired="stopped"
    )
    prices.put(db, "", Decimal(1), "CNY")
    accounts.top_up(db, who, workspace.id, Decimal(1), "CNY")
    spend(db, workspace, 2)
    with pytest.raises(accounts.OutOfMoney, match="used up"):
        deployments.start(db, workspace.id, deployment.id)
    with pytest.raises(accounts.OutOfMoney):
        editing.scale(db, workspace.id, deployment.id, 2)
    accounts.top_up(db, who, workspace.id, Decimal(5), "CNY")
    limits.change(db, workspace.id, None, {"device_hours_day": 2})
    with pytest.raises(DomainError, match="2 GPU-hours of this workspace are used up") as caught:
        deployments.start(db, workspace.id, deployment.id)
    assert caught.value.params["quota"] == "device_hours_day"
    limits.change(db, workspace.id, None, {"device_hours_day": 3})
    assert deployments.start(db, workspace.id, deployment.id).desired == "running"
