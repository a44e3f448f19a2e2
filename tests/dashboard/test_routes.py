"""Home and the platform admins' pages."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select, update

from app.accounts.tables import AuditEntry
from app.cluster import fair
from app.cluster import service as cluster
from app.cluster.tables import Node
from app.dashboard import readiness, reference
from app.dashboard.openapi import describe
from app.datasets.presets import ensure_samples
from app.datasets.tables import Dataset
from app.db import now
from app.jobs.tables import Job
from app.main import app
from app.quotas import prices
from app.quotas import service as quotas
from tests.conftest import Client, sign_in
from tests.factories import (
    make_dataset,
    make_deployment,
    make_job,
    make_model,
    make_node,
    make_replica,
    make_user,
    make_workspace,
)


def soup(response: Any) -> BeautifulSoup:
    assert response.status_code < 500, response.text[-2000:]
    return BeautifulSoup(response.text, "lxml")


@pytest.fixture
def admin(db, anonymous) -> Client:
    user = make_user(db, is_platform_admin=True, name="Root")
    sign_in(db, anonymous, user, make_workspace(db, owner=user, name="Platform"))
    return anonymous


# -- home --------------------------------------------------------------------------------


def test_a_new_workspace_sees_three_steps_with_the_sample_one_click_away(db, client):
    ensure_samples(db)
    starter = make_model(db)
    db.commit()
    sample = db.scalar(select(Dataset).where(Dataset.name == "reviews-train"))
    page = soup(client.get("/"))
    assert len(page.select("[data-testid=first-steps] .step")) == 3
    tune = page.select_one("[data-testid=step-tune]")["href"]
    assert tune == f"/jobs/new?model={starter.id}&dataset={sample.id}"
    assert client.get(tune).status_code == 200
    for link in page.select("[data-testid=first-steps] a"):
        assert client.get(link["href"]).status_code == 200, link


def test_the_steps_are_ticked_off(db, client):
    def done():
        return len(soup(client.get("/")).select(".step-done"))

    assert done() == 0
    make_dataset(db, client.workspace)
    db.commit()
    assert done() == 1
    make_job(db, client.workspace, client.user)
    db.commit()
    assert done() == 2
    make_deployment(db, client.workspace, client.user)
    db.commit()
    page = soup(client.get("/"))
    assert not page.select("[data-testid=first-steps]")
    assert page.select_one("[data-testid=next-step]")


def test_the_next_step_is_what_is_most_useful_now(db, client):
    make_deployment(db, client.workspace, client.user, state="ready", name="sentiment")
    db.commit()

    def title():
        return soup(client.get("/")).select_one("#next-title").text.strip()

    assert title() == "Your models are ready: talk to one, or make the next"
    error = {"code": "oom", "message": "Out of memory at step %(step)s.", "params": {"step": 7}}
    make_job(db, client.workspace, client.user, state="failed", finished_at=now(), error=error)
    db.commit()
    assert title() == "A job failed: see what happened"
    assert "Out of memory at step 7." in client.get("/").text
    make_model(db, client.workspace, kind="adapter", job_id="job_x", name="reviews-1")
    db.commit()
    assert title() == "reviews-1 is tuned and waits to be used"


def test_what_runs_asks_for_itself_until_it_is_over(db, client):
    make_job(db, client.workspace, client.user, state="running", step=3, total=12)
    make_job(db, client.workspace, client.user, state="queued", reason="quota", name="waits")
    make_job(db, make_workspace(db), client.user, state="running", name="not ours")
    db.commit()
    now_ = soup(client.get("/now")).select_one("#now")
    assert now_["hx-trigger"] == "load delay:4s"
    assert "not ours" not in now_.text
    assert "Waiting for quota" in now_.text
    assert (now_.progress["value"], now_.progress["max"]) == ("3", "12")
    db.execute(update(Job).values(state="succeeded"))
    db.commit()
    now_ = soup(client.get("/now")).select_one("#now")
    assert not now_.has_attr("hx-get")


def test_the_meter_shows_held_and_waiting(db, client):
    make_node(db, devices=2)
    quotas.put(db, client.workspace.id, 3)
    job = make_job(db, client.workspace, client.user)
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=client.workspace.id, devices=1)
    cluster.decide(db)
    second = make_job(db, client.workspace, client.user)
    cluster.ask(
        db, owner_kind="job", owner_id=second.id, workspace_id=client.workspace.id, devices=2
    )
    db.commit()
    meter = soup(client.get("/meter")).select_one("#quota-meter")
    assert meter.get_text("", strip=True).replace(" ", "") == "1/3+2"
    page = soup(client.get("/"))
    assert [tile.text for tile in page.select(".tile-value")] == ["1", "2", "2"]


# -- admin -------------------------------------------------------------------------------


def test_devices_with_who_holds_them_and_who_waits(db, admin):
    make_node(db, devices=1, id="gpu-01")
    team = make_workspace(db, name="视觉组")
    user = make_user(db)
    held, waits = (make_job(db, team, user, name=name) for name in ("first job", "second job"))
    for job in (held, waits):
        cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=team.id, devices=1)
        cluster.decide(db)
    idle = make_deployment(
        db, team, user, name="idle one", state="ready", ready_at=now() - timedelta(hours=2)
    )
    make_replica(db, idle)
    make_job(db, team, user, name="broken", state="failed", finished_at=now())
    db.commit()
    for path in ("/admin", "/admin/live"):
        page = soup(admin.get(path))
        device = page.select_one("[data-testid=device]")
        assert "cpu:0" in device.text
        assert "first job" in device.text
        assert "视觉组" in device.text
        waiting = page.select_one("[data-testid=waiting]")
        assert "second job" in waiting.text
        assert waiting.select_one(".state").text == "Waiting for a device"
    page = soup(admin.get("/admin"))
    assert "broken" in page.text
    assert "idle one" in page.text


def test_a_node_takes_no_new_work(db, admin):
    make_node(db, id="gpu-01")
    db.commit()
    assert admin.post("/admin/nodes/gpu-01/cordon").status_code == 303
    assert soup(admin.get("/admin")).select_one("[data-testid=node] .state").text == "Cordoned"
    assert admin.post("/admin/nodes/gpu-01/uncordon").status_code == 303
    db.expire_all()
    assert db.scalar(select(Node.cordoned)) is False
    assert admin.post("/admin/nodes/none/cordon").status_code == 404


def test_quotas_are_edited_in_place(db, admin):
    team = make_workspace(db, name="Team <b>")
    db.commit()
    path = f"/admin/workspaces/{team.id}/quota"
    row = admin.post(path, data={"devices": "3"}, headers={"hx-request": "true"})
    assert row.status_code == 200
    assert "<html" not in row.text
    assert soup(row).select_one("input")["value"] == "3"
    assert quotas.limit(db, team.id) == 3
    wrong = admin.post(path, data={"devices": "-1"}, headers={"hx-request": "true"})
    assert wrong.status_code == 422
    assert "Must be at least 0." in wrong.text
    assert soup(wrong).select_one("input")["value"] == "-1"
    assert quotas.limit(db, team.id) == 3
    assert admin.post(path, data={"devices": ""}).status_code == 303  # without script: the page
    db.expire_all()
    assert quotas.limit(db, team.id) is None
    assert "Team &lt;b&gt;" in admin.get("/admin/workspaces").text
    assert admin.post("/admin/workspaces/ws_none/quota", data={"devices": "1"}).status_code == 404


def test_workspaces_are_made_here(db, admin):
    made = admin.post("/admin/workspaces", data={"name": "Vision"})
    assert made.status_code == 303
    assert "Vision" in admin.get("/admin/workspaces").text
    wrong = admin.post("/admin/workspaces", data={"name": "x", "owner": "nobody@example.com"})
    assert wrong.status_code == 422
    assert (
        "Nobody here has the address nobody@example.com." in soup(wrong).select_one("#e-owner").text
    )


# -- readiness and reference -------------------------------------------------------------


def test_ready(anonymous):
    assert anonymous.get("/healthz").json() == {"status": "ok"}
    ready = anonymous.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


def test_not_ready_says_what_is_missing(anonymous, monkeypatch):
    monkeypatch.setattr(readiness, "redis_alive", lambda: False)
    monkeypatch.setattr(readiness, "heads", lambda: {"later"})
    missing = anonymous.get("/readyz")
    assert missing.status_code == 503
    assert missing.json()["redis"] == "does not answer"
    assert missing.json()["migrations"].endswith("run the migrations")
    assert missing.json()["database"] == "ok"


def test_every_call_of_the_api_is_in_the_reference(client):
    page = soup(client.get("/api"))
    assert len(page.select(".operation")) == sum(map(len, reference.groups(describe(app)).values()))
    assert "/api/v1/keys" in page.text
    assert client.get("/api/v1/openapi.json").json()["info"]["title"] == "Danlu"


def test_every_link_of_the_menu_leads_somewhere(admin):
    page = soup(admin.get("/"))
    links = {link["href"] for link in page.select("nav a[href^='/'], .menu-list a[href^='/']")}
    assert len(links) > 8
    assert {link: admin.get(link).status_code for link in links} == dict.fromkeys(links, 200)


def test_prices_are_set_beside_the_quotas(db, admin):
    make_node(db)
    db.commit()
    page = soup(admin.get("/admin/workspaces"))
    rows = page.select("[data-testid=price-row]")
    assert [row["data-device"] for row in rows] == ["", "Processor"]
    saved = admin.post("/admin/prices", data={"device": "Processor", "hour": "1.50"})
    assert saved.headers["location"].endswith("/admin/workspaces#prices")
    assert prices.of(db, "Processor").hour == Decimal("1.5")
    field = soup(admin.get("/admin/workspaces")).select("[data-testid=price-hour]")[1]
    assert field["value"] == "1.5"
    wrong = admin.post("/admin/prices", data={"device": "Processor", "hour": "-1"})
    assert wrong.status_code == 422
    row = soup(wrong).select_one("[data-device=Processor]")
    assert row.select_one("[data-testid=price-hour]")["value"] == "-1"
    assert row.select_one("[role=alert]")
    admin.post("/admin/prices", data={"device": "Processor", "hour": ""})
    db.expire_all()
    assert prices.of(db, "Processor") is None


def test_what_a_workspace_is_due_is_set_in_its_row(db, admin):
    team = make_workspace(db, name="Team")
    db.commit()
    path = f"/admin/workspaces/{team.id}/share"
    row = admin.post(
        path, data={"weight": "2.5", "priority": "high"}, headers={"hx-request": "true"}
    )
    assert row.status_code == 200
    line = soup(row)
    assert line.select_one('[data-testid="share-weight"]')["value"] == "2.5"
    assert line.select_one('[data-testid="share-priority"] option[selected]')["value"] == "high"
    assert admin.post(path, data={"weight": "1", "priority": "low"}).status_code == 303
    wrong = admin.post(path, data={"weight": "0", "priority": "high"})
    assert wrong.status_code == 422
    assert 'role="alert"' in wrong.text
    assert admin.post(path, data={"weight": "1", "priority": "urgent"}).status_code == 422
    missing = admin.post("/admin/workspaces/ws_none/share", data={"weight": "1", "priority": "low"})
    assert missing.status_code == 404
    assert (fair.of(db, team.id).weight, fair.of(db, team.id).priority) == (1.0, 0)
    noted = db.scalars(select(AuditEntry).where(AuditEntry.noun == "fair_share")).all()
    assert [one.workspace_id for one in noted] == [team.id, team.id]
