"""Running out: warned at 80 and 95 %, then paused with a checkpoint, and going on again."""

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Membership, User, Workspace
from app.cluster import service as cluster
from app.db import now
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
