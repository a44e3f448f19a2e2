"""The administrators' overview: each figure, and the list that it opens."""

from datetime import timedelta
from decimal import Decimal

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import update

from app.alerts.tables import Alert
from app.cluster import service as cluster
from app.cluster.tables import Device, Lease
from app.db import now
from app.quotas import service as quotas
from app.quotas.charging import WHOLE
from app.quotas.money_tables import Charge
from tests.conftest import sign_in
from tests.factories import (
    make_deployment,
    make_job,
    make_node,
    make_replica,
    make_user,
    make_workspace,
)


@pytest.fixture
def admin(db, anonymous):
    user = make_user(db, is_platform_admin=True, name="Root")
    sign_in(db, anonymous, user, make_workspace(db, owner=user, name="Platform"))
    return anonymous


def soup(response):
    assert response.status_code == 200, response.text[-2000:]
    return BeautifulSoup(response.text, "lxml")


def words(found):
    return " ".join(found.get_text(" ").split())


def tile(page, name):
    return words(page.select_one(f"[data-testid=tile-{name}]"))


@pytest.fixture
def team(db):
    """One device, which a job of the team holds and does nothing with; another job waits."""
    make_node(db, devices=1, id="gpu-01")
    found = make_workspace(db, name="视觉组")
    user = make_user(db)
    for name in ("first job", "second job"):
        job = make_job(db, found, user, name=name)
        cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=found.id, devices=1)
        cluster.decide(db)
    long_ago = now() - timedelta(hours=3)
    db.execute(update(Lease).values(created_at=long_ago, measured=3600.0, worked=36.0))
    db.execute(update(Device).values(stats={"use": 40}))
    lonely = make_deployment(
        db, found, user, name="nobody calls", state="ready", ready_at=now() - timedelta(hours=2)
    )
    make_replica(db, lonely)
    make_job(db, found, user, name="broken", state="failed", finished_at=now())
    at = now().replace(hour=0, minute=0, second=1, microsecond=0)
    row = {"id": "lse-1", "at": at, "kind": "device", "workspace_id": found.id}
    quotas.record(db, [row | {"owner_kind": "job", "owner_id": job.id, "device_ms": 5_400_000}])
    charge = {"workspace_id": found.id, "at": at, "currency": "CNY", "free": 0}
    db.add(Charge(usage_id="lse-1", parts=Decimal("18.75") * WHOLE, **charge))
    db.add(Alert(kind="node_lost", subject="gpu-02", message="Node gpu-02 is silent."))
    db.commit()
    return found


def test_at_a_glance(db, admin, team):
    for path in ("/admin", "/admin/live"):
        page = soup(admin.get(path))
        assert "1 / 1" in tile(page, "devices")
        assert "40 %" in tile(page, "busy")
        assert "for 1 device" in tile(page, "waiting")
        assert tile(page, "failed").startswith("Failed 1")
        assert tile(page, "idle").startswith("Held, but idle 2")
        assert tile(page, "alerts") == "Alerts 1 firing now"
        assert "18.75 CNY" in tile(page, "costs")
        cell = page.select_one("[data-testid=device]")
        assert "cell-held" in cell["class"]
        assert "fill-4" in cell["class"]
        assert "视觉组: first job" in words(cell)
        assert cell["href"].startswith("/admin/nodes/gpu-01#device-")


@pytest.mark.parametrize(
    ("show", "told"),
    [
        ("waiting", "second job 视觉组 1 device Waiting for a device"),
        ("use", "视觉组 1 ∞ 1 1.50 18.75 CNY 18.75 CNY"),
        ("failed", "broken 视觉组"),
        ("idle", "gpu-01 cpu:0 did nothing"),
        ("idle", "nobody has called it for an hour"),
    ],
)
def test_each_figure_opens_its_list(db, admin, team, show, told):
    page = soup(admin.get("/admin"))
    tiles = {one["href"] for one in page.select("[data-testid^=tile-]")}
    assert f"/admin/lists?show={show}" in tiles
    assert told in words(soup(admin.get(f"/admin/lists?show={show}")).select_one("main"))


def test_an_empty_cluster_says_so(db, admin):
    page = soup(admin.get("/admin"))
    assert "No node has reported yet" in page.text
    assert "Nobody waits." in page.text
    assert "Nobody holds devices idly." in page.text
    assert admin.get("/admin/lists?show=everything").status_code == 422
