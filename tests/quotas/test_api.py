"""Quotas as JSON, and the devices that they count."""

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.quotas import service
from app.quotas.tables import Usage
from tests.conftest import Client
from tests.factories import make_node, make_workspace


@pytest.fixture
def admin(db: Session, api: Client) -> Client:
    """A platform admin, with a key."""
    api.user.is_platform_admin = True
    db.commit()
    return api


def test_a_platform_admin_sets_the_quota(db: Session, admin: Client) -> None:
    team = make_workspace(db, name="Red")
    db.commit()
    path = f"/api/v1/quotas/{team.id}"
    found = admin.get(path).json()
    assert (found["workspace"], found["name"], found["devices"]) == (team.id, "Red", None)
    assert admin.put(path, json={"devices": 2}).json()["devices"] == 2
    assert admin.get(f"/api/v1/quotas/{team.slug}").json()["devices"] == 2
    assert service.limit(db, team.id) == 2
    assert admin.put(path, json={"devices": None}).json()["devices"] is None


@pytest.mark.parametrize("body", [{}, {"devices": -1}, {"devices": 1.5}, {"devices": "2"},
                                  {"devices": True}, {"devices": 10**9}, {"gpus": 1}])  # fmt: skip
def test_a_bad_quota_is_refused(db: Session, admin: Client, body: dict[str, Any]) -> None:
    answer = admin.put(f"/api/v1/quotas/{admin.workspace.id}", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]
    assert service.limit(db, admin.workspace.id) is None


def test_members_see_their_own_quota_and_change_none(db: Session, api: Client) -> None:
    other = make_workspace(db)
    service.put(db, api.workspace.id, 3)
    db.commit()
    assert api.get(f"/api/v1/quotas/{api.workspace.id}").json()["devices"] == 3
    assert api.get(f"/api/v1/quotas/{other.id}").status_code == 404
    assert api.get("/api/v1/quotas/none").status_code == 404
    assert api.put(f"/api/v1/quotas/{api.workspace.id}", json={"devices": 9}).status_code == 403


def test_the_ledger_takes_a_row_once(db: Session) -> None:
    row = {
        "id": "req-1",
        "kind": "tokens",
        "workspace_id": "ws_1",
        "owner_kind": "deployment",
        "owner_id": "dep_1",
        "at": "2026-11-21T01:02:03+00:00",
    }
    service.record(db, [row | {"prompt_tokens": 5}])
    service.record(db, [row | {"prompt_tokens": 9}, row | {"id": "req-2", "prompt_tokens": 1}])
    service.record(db, [])
    assert db.scalar(select(func.sum(Usage.prompt_tokens))) == 6


def test_others_see_that_a_device_is_held_but_not_by_whom(db: Session, api: Client) -> None:
    make_node(db, id="local")
    other = make_workspace(db, name="Red")
    cluster.ask(db, owner_kind="job", owner_id="job_x", workspace_id=other.id, devices=1)
    cluster.decide(db)
    db.commit()
    first, second = api.get("/api/v1/devices").json()["data"]
    assert (first["state"], first["holders"], second["state"]) == ("held", [], "free")
    assert (first["node"], first["node_state"], first["name"]) == ("local", "ready", "cpu:0")
    api.user.is_platform_admin = True
    db.commit()
    first = api.get("/api/v1/devices").json()["data"][0]
    assert [holder["workspace"] for holder in first["holders"]] == ["Red"]
