"""Limits: where each comes from, what ends by itself, and what is refused at submission."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.cluster import budgets
from app.cluster import service as cluster
from app.cluster.tables import Lease
from app.db import now
from app.errors import DomainError, Invalid
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.queue import transaction
from app.quotas import limits
from app.quotas.kinds import HOUR
from app.quotas.limits import Held
from app.quotas.tables import Quota, Reservation, Usage
from tests.conftest import Client
from tests.factories import (
    make_key,
    make_membership,
    make_model,
    make_node,
    make_principal,
    make_user,
    make_workspace,
)


def amounts(db: Session, workspace_id: str | None) -> dict[str, tuple[int | None, str]]:
    return {
        name: (limit.amount, limit.source)
        for (name, _), limit in limits.effective(db, workspace_id).items()
    }


def test_the_nearest_counts_and_a_raise_ends_by_itself(db: Session) -> None:
    team = make_workspace(db).id
    limits.change(db, None, None, {"devices": 4, "queued_jobs": 9})
    assert amounts(db, team) == {"devices": (4, "platform"), "queued_jobs": (9, "platform")}
    limits.change(db, team, None, {"devices": 2})
    limits.change(db, team, None, {"devices": 8}, now() + timedelta(hours=1))
    assert amounts(db, team)["devices"] == (8, "workspace")
    db.execute(update(Quota).where(Quota.temporary).values(until=now() - timedelta(seconds=1)))
    assert amounts(db, team)["devices"] == (2, "workspace")
    limits.clear(db)
    assert db.scalar(select(func.count()).where(Quota.temporary)) == 0
    limits.change(db, team, None, {"devices": None})
    assert amounts(db, team)["devices"] == (None, "workspace")
    limits.change(db, team, None, {"devices": "inherit"})
    assert amounts(db, team)["devices"] == (4, "platform")


def test_what_may_run_at_once_is_pure(db: Session) -> None:
    owner = make_user(db)
    team, other = make_workspace(db, owner=owner).id, make_workspace(db).id
    limits.change(db, None, None, {"devices": 8})
    limits.change(db, team, None, {"devices_by_model": {"H200": 2}, "running_jobs": 2})
    limits.change(db, team, owner.id, {"devices": 3, "running_jobs": 1})
    found, held = limits.concurrent(db), Held()
    assert (found.room(held, team), found.room(held, team, owner.id)) == (8, 3)
    assert (found.room(held, team, None, "H200"), found.room(held, other, None, "H200")) == (2, 8)
    assert found.most(team, None, ["H200"]) == 2
    assert found.most(team, None, ["H200", "L40"]) == 8
    held.take(team, owner.id, "H200", 2)
    held.run(team, owner.id)
    assert (found.room(held, team, owner.id, "H200"), found.room(held, team, owner.id)) == (0, 1)
    assert not found.may_run(held, team, owner.id)
    assert found.may_run(held, team, "somebody")
    held.run(team, "somebody")
    assert not found.may_run(held, team, "somebody else")


def merge(db: Session, workspace_id: str, user_id: str, adapter_id: str) -> Job:
    return jobs.create_merge(db, workspace_id=workspace_id, user_id=user_id, adapter_id=adapter_id)


def test_fifty_submitters_at_once_get_no_more_than_there_is(db: Session) -> None:
    owner = make_user(db)
    team = make_workspace(db, owner=owner)
    base = make_model(db)
    adapter = make_model(db, team, kind="adapter", base_id=base.id)
    make_node(db)
    limits.change(db, team.id, None, {"queued_jobs": 7})
    db.commit()

    def submit(_: int) -> bool:
        try:
            with transaction() as session:
                merge(session, team.id, owner.id, adapter.id)
        except Invalid as error:
            return "queued jobs" not in str(error)
        return True

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(submit, range(50))) == 7
    assert db.scalar(select(func.count()).select_from(Job)) == 7
    assert db.scalar(select(func.count()).select_from(Reservation)) == 7


def test_fifty_submitters_share_the_hours_that_are_left(db: Session) -> None:
    owner = make_user(db)
    team = make_workspace(db, owner=owner)
    limits.change(db, team.id, None, {"device_hours_month": 100})
    limits.change(db, team.id, owner.id, {"device_hours_month": 45})
    db.commit()

    def submit(number: int) -> str:
        try:
            with transaction() as session:
                budgets.reserve(
                    session,
                    owner_id=f"job_{number}",
                    workspace_id=team.id,
                    user_id=owner.id if number % 2 else None,
                    devices=1,
                    device_ms=10 * HOUR,
                )
        except DomainError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(submit, range(50)))
    assert found.count("") == 10
    assert found[1::2].count("") <= 4
    assert sum(db.scalars(select(Reservation.device_ms))) == 100 * HOUR
    assert any("are left of this workspace's 100 a month" in one for one in found)


def test_hours_are_reserved_used_and_settled(db: Session) -> None:
    owner = make_user(db)
    team = make_workspace(db, owner=owner).id
    make_node(db)
    limits.change(db, team, None, {"device_hours_month": 10})
    asked = {"workspace_id": team, "user_id": owner.id, "devices": 1}
    budgets.reserve(db, owner_id="job_a", device_ms=6 * HOUR, **asked)
    with pytest.raises(Invalid, match="about 5 GPU-hours, and 4 are left"):
        budgets.reserve(db, owner_id="job_b", device_ms=5 * HOUR, **asked)
    cluster.ask(db, owner_kind="job", owner_id="job_a", **asked)
    cluster.decide(db)
    (lease,) = cluster.leases_of(db, "job", "job_a")
    lease.created_at -= timedelta(hours=2)
    db.flush()
    period = budgets.Period.of(budgets.MONTH, now())
    assert budgets.used(db, team, None, period) / HOUR == pytest.approx(2, abs=0.01)
    assert budgets.reserved(db, team, None, period) / HOUR == pytest.approx(4, abs=0.01)
    budgets.write(db)  # a lease that lasts is written piece by piece
    assert len(db.scalars(select(Usage)).all()) >= 1
    lease.metered_at -= timedelta(minutes=30)
    db.flush()
    cluster.release(db, "job", "job_a")
    assert {row.user_id for row in db.scalars(select(Usage))} == {owner.id}
    assert budgets.used(db, team, owner.id, period) / HOUR == pytest.approx(2.5, abs=0.01)
    assert budgets.reserved(db, team, None, period) / HOUR == pytest.approx(3.5, abs=0.01)
    budgets.drop(db, "job_a")
    assert budgets.reserved(db, team, None, period) == 0
    assert db.scalar(select(func.count()).select_from(Lease)) == 1


def test_a_share_of_a_device_counts_as_a_share(db: Session) -> None:
    team = make_workspace(db).id
    make_node(db, devices=1)
    cluster.ask(db, owner_kind="replica", owner_id="r", workspace_id=team, devices=1, memory=2**31)
    cluster.decide(db)
    (lease,) = cluster.leases_of(db, "replica", "r")
    lease.created_at -= timedelta(hours=4)
    cluster.release(db, "replica", "r")
    assert sum(db.scalars(select(Usage.device_ms))) / HOUR == pytest.approx(1, abs=0.01)


def test_a_paused_job_gives_back_what_was_reserved(db: Session) -> None:
    owner = make_user(db)
    team = make_workspace(db, owner=owner)
    adapter = make_model(db, team, kind="adapter", base_id=make_model(db).id)
    limits.change(db, team.id, None, {"queued_jobs": 1})
    job = merge(db, team.id, owner.id, adapter.id)
    with pytest.raises(Invalid, match="may have 1 queued jobs"):
        merge(db, team.id, owner.id, adapter.id)
    jobs.cancel(db, team.id, job.id)
    merge(db, team.id, owner.id, adapter.id)


# -- as JSON -----------------------------------------------------------------------------


def test_quotas_of_many_at_once_and_of_members(db: Session, api: Client) -> None:
    path = f"/api/v1/quotas/{api.workspace.id}"
    other = make_workspace(db)
    user = make_user(db)
    make_membership(db, api.workspace, user, "member")
    theirs = make_key(db, api.workspace, user)
    db.commit()
    hers = {"authorization": f"Bearer {theirs}"}
    body = {"devices": 3, "device_hours_day": 1.5, "storage_bytes": 10**9}
    many = {"workspaces": [api.workspace.id, other.slug]} | body
    assert api.put("/api/v1/quotas", json=many).status_code == 403
    mine = f"{path}/members/{user.id}"
    assert api.put(mine, json={"running_jobs": 1}).json()["running_jobs"] == 1
    assert api.get(mine, headers=hers).json()["limits"]["running_jobs"]["source"] == "member"
    assert api.put(mine, json={"running_jobs": 5}, headers=hers).status_code == 403
    assert api.get(f"{path}/members/{api.user.id}", headers=hers).status_code == 403
    api.user.is_platform_admin = True
    db.commit()
    assert api.put("/api/v1/quotas", json=many | {"workspaces": ["none"]}).status_code == 404
    found = api.put("/api/v1/quotas", json=many).json()["data"]
    assert [(one["devices"], one["device_hours_day"]) for one in found] == [(3, 1.5), (3, 1.5)]
    soon = (now() + timedelta(days=1)).isoformat()
    raised = api.put(path, json={"devices": 9, "until": soon}).json()
    assert (raised["devices"], bool(raised["limits"]["devices"]["until"])) == (9, True)
    assert api.put(path, json={"devices": 1, "until": "2020-01-01T00:00:00Z"}).status_code == 422
    assert api.put(path, json={"devices": 1, "until": "2099-01-01T00:00:00"}).status_code == 422
    assert api.put("/api/v1/quotas/default", json={"deployments": 5}).json()["deployments"] == 5
    assert api.get(path).json()["limits"]["deployments"] == {
        "amount": 5, "source": "platform", "until": None,
    }  # fmt: skip
    typed = api.put(path, json={"devices_by_model": {"H200": 2}}).json()
    assert typed["devices_by_model"] == {"H200": 2}


def test_principals_of_other_workspaces_see_nothing(db: Session, api: Client) -> None:
    user = make_user(db)
    other = make_workspace(db, owner=user)
    who = make_principal(user, other)
    db.commit()
    assert api.get(f"/api/v1/quotas/{who.workspace_id}/members/{user.id}").status_code == 404


def test_deployments_are_counted(db: Session, api: Client) -> None:
    make_node(db)
    model = make_model(db)
    limits.change(db, api.workspace.id, api.user.id, {"deployments": 1})
    db.commit()
    body = {"model": model.id}
    assert api.post("/api/v1/deployments", json=body | {"name": "a"}).status_code == 201
    refused = api.post("/api/v1/deployments", json=body | {"name": "b"})
    assert (refused.status_code, refused.json()["code"]) == (422, "quota")
    assert "You may have 1 deployments" in refused.json()["detail"]
