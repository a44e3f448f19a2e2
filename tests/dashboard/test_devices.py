"""The pages of devices and nodes."""

from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.accounts.tables import Workspace
from app.cluster import readings
from app.cluster import service as cluster
from app.cluster.tables import Device, Lease, Node
from app.db import now
from tests.conftest import sign_in
from tests.factories import (
    GIB,
    make_deployment,
    make_device,
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


def text(found):
    return " ".join(found.text.split())


def hold(db, workspace, owner_kind, owner_id, **more):
    values = {"workspace_id": workspace.id, "devices": 1} | more
    cluster.ask(db, owner_kind=owner_kind, owner_id=owner_id, **values)
    cluster.decide(db)
    return db.scalar(select(Lease).where(Lease.owner_id == owner_id))


@pytest.fixture
def room(db):
    """A node of two GPUs: one held by a job that does nothing, one free; and one without."""
    node = make_node(
        db, id="gpu-01", devices=0, labels={"room": "b"},
        facts={"driver": "580.95.05", "cuda": "13.0", "danlu": "0.1.0", "cores": 96},
    )  # fmt: skip
    stats = {"use": 3, "memory": 60 * GIB, "temperature": 44, "power": 98.5, "power_limit": 700.0}
    for number in range(2):
        make_device(
            db, node, name=f"cuda:{number}", kind="cuda", model="NVIDIA H200", memory=141 * GIB,
            uuid=f"GPU-{number}", stats=stats, facts={"pci": "00000000:09:00.0"},
        )  # fmt: skip
    db.commit()
    return node


def test_who_holds_a_gpu_and_does_nothing_stands_out(db, admin, room):
    lin = make_user(db, name="Lin Wei")
    team = make_workspace(db, name="视觉组 <b>", owner=lin)
    job = make_job(db, team, lin, name="first job", state="running")
    lease = hold(db, team, "job", job.id)
    lease.created_at = now() - timedelta(hours=3)
    lease.measured, lease.worked = 10_000, 300
    lease.active_at = now() - timedelta(hours=2, minutes=5)
    db.commit()
    for path in ("/admin/devices", "/admin/devices/live", "/admin/nodes/gpu-01"):
        page = soup(admin.get(path))
        held, free = page.select("[data-testid=device]")
        assert held.select_one(".state").text == "Held"
        assert free.select_one(".state").text == "Free"
        holder = text(held.select_one("[data-testid=holder]"))
        assert "first job" in holder
        assert "视觉组 <b> · Lin Wei · held for 3h 00m" in holder
        busy = held.select_one("[data-testid=busy]")
        assert text(busy) == "Idle for 2h 05m · busy 3% of the time held"
        assert "idle" in busy["class"]
        assert "98 / 700 W" in text(held)
        assert "44 °C" in text(held)
        assert not held.select("a[href*=jobs]"), "another workspace's: an admin may not open it"
    page = soup(admin.get("/admin/devices"))
    counts = {one["data-count"]: one.text for one in page.select("[data-count]")}
    assert counts == {
        "all": "2", "held": "1", "free": "1", "idle": "1", "taken": "0", "unhealthy": "0"
    }  # fmt: skip
    lease.active_at = now()
    db.commit()
    busy = soup(admin.get("/admin/devices")).select_one("[data-testid=busy]")
    assert text(busy) == "busy 3% of the time held"


def test_what_is_wrong_with_a_device(db, admin, room):
    first, second = room_devices(db, room)
    first.healthy, first.stats = False, {}
    first.problems = [{"code": "xid", "grave": True, "xid": 79, "at": 1}]
    second.taken = 8 * GIB
    second.stats = second.stats | {
        "throttle": ["heat"],
        "strangers": [{"pid": 4711, "name": "<i>python", "memory": 8 * GIB}],
    }
    db.commit()
    ill, taken = soup(admin.get("/admin/devices")).select("[data-testid=device]")
    assert "XID 79" in ill.select_one("[data-testid=problem]").text
    assert ill.select_one(".state").text == "Unhealthy"
    assert taken.select_one(".state").text == "Not ours"
    stranger = text(taken.select_one("[data-testid=stranger]"))
    assert stranger == "<i>python (process 4711), 8.0 GiB: not Danlu's"
    assert "slowed down by heat" in taken.text
    told = admin.get("/api/v1/devices").json()["data"]
    assert [device["state"] for device in told] == ["free", "taken"]
    assert told[0]["problems"][0]["params"] == {"xid": 79, "at": 1}


def room_devices(db, node):
    query = select(Device).where(Device.node_id == node.id).order_by(Device.name)
    return db.scalars(query).all()


def test_members_see_what_their_workspace_holds(db, client, room):
    job = make_job(db, client.workspace, client.user, name="ours", state="running")
    other = make_workspace(db, name="Others")
    theirs = make_deployment(db, other, make_user(db), name="theirs")
    replica = make_replica(db, theirs)
    hold(db, client.workspace, "job", job.id)
    hold(db, other, "replica", replica.id, memory=8 * GIB)
    for device in room_devices(db, room):
        device.stats = {"strangers": [{"pid": 1, "name": "secret-tool", "memory": 1}]}
    db.commit()
    answer = client.get("/devices")
    (device,) = soup(answer).select("[data-testid=device]")
    assert device.select_one("a")["href"] == f"/jobs/{job.id}"
    for hidden in ("theirs", "Others", "secret-tool"):
        assert hidden not in answer.text
        assert hidden not in client.get("/api/v1/devices").text
    assert client.get("/admin/devices").status_code == 403


def test_a_workspace_that_holds_nothing_is_told_so(db, client, room):
    assert "This workspace holds no device" in client.get("/devices").text


# -- a node ------------------------------------------------------------------------------


def test_labels_are_written_as_lines(db, admin, room):
    page = soup(admin.get("/admin/nodes/gpu-01"))
    assert page.select_one("[data-testid=node-labels]").text == "room=b"
    answer = admin.post(
        "/admin/nodes/gpu-01/labels", data={"labels": "gpu=h200\nroom=c, nvlink=yes"}
    )
    assert answer.headers["location"] == "/admin/nodes/gpu-01"
    db.expire_all()
    labels = {"gpu": "h200", "nvlink": "yes", "room": "c"}
    assert db.get_one(Node, "gpu-01").labels == labels
    wrong = admin.post("/admin/nodes/gpu-01/labels", data={"labels": "room c"})
    assert wrong.status_code == 422
    page = BeautifulSoup(wrong.text, "lxml")
    assert "room c is not" in page.select_one("#e-labels").text
    assert page.select_one("[data-testid=node-labels]").text == "room c", "nothing is lost"
    assert admin.post("/admin/nodes/gpu-01/labels", data={}).status_code == 303
    db.expire_all()
    assert db.get_one(Node, "gpu-01").labels == {}
    assert admin.get("/admin/nodes/none").status_code == 404


def test_a_node_is_emptied_from_its_page(db, admin, room):
    lin = make_user(db)
    job = make_job(db, make_workspace(db, owner=lin), lin, name="first job", state="running")
    hold(db, db.get_one(Workspace, job.workspace_id), "job", job.id)
    db.commit()
    page = soup(admin.get("/admin/nodes/gpu-01"))
    assert page.select_one("#drain-gpu-01 [name=minutes]")["value"] == "30"
    answer = admin.post("/admin/nodes/gpu-01/drain", data={"minutes": "45"})
    assert answer.headers["location"] == "/admin/nodes/gpu-01"
    db.expire_all()
    node = db.get_one(Node, "gpu-01")
    assert timedelta(minutes=44) < node.drain_until - now() <= timedelta(minutes=45)
    assert node.cordoned
    for path in ("/admin/nodes/gpu-01", "/admin/devices"):
        page = soup(admin.get(path))
        told = text(page.select_one("[data-testid=drain-progress]"))
        assert "1 has yet to leave this node" in told
        assert "first job: it saves a checkpoint and stops" in told
        assert page.select_one("[data-testid=node] .state").text == "Draining"
    cluster.release(db, "job", job.id)
    db.commit()
    page = soup(admin.get("/admin/nodes/gpu-01"))
    assert "It can be taken down" in page.select_one("[data-testid=drain-progress]").text
    assert admin.get("/api/v1/nodes/gpu-01").json()["state"] == "drained"
    assert admin.post("/admin/nodes/gpu-01/uncordon").status_code == 303
    db.expire_all()
    assert not db.get_one(Node, "gpu-01").cordoned
    assert not soup(admin.get("/admin/nodes/gpu-01")).select("[data-testid=drain-progress]")
    drained = admin.post("/api/v1/nodes/gpu-01/drain", json={"seconds": 60}).json()
    assert drained["drain_until"] > drained["drain_since"]
    assert admin.post("/admin/nodes/none/drain").status_code == 404


def test_labels_by_api(db, admin, room):
    answer = admin.patch("/api/v1/nodes/gpu-01", json={"labels": {"room": "c"}})
    assert answer.json()["labels"] == {"room": "c"}
    wrong = admin.patch("/api/v1/nodes/gpu-01", json={"labels": {"room": "b c"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
    assert admin.get("/api/v1/nodes/gpu-01").json()["labels"] == {"room": "c"}


def test_history_is_told_by_device(db, admin, room):
    readings.record(db, "gpu-01", 15)
    db.commit()
    found = admin.get("/api/v1/nodes/gpu-01/history?range=24h").json()
    assert (found["range"], found["step"], len(found["t"])) == ("24h", 300, 288)
    assert found["devices"]["cuda:1"]["power"][-1] == 98.5
    assert found["devices"]["cuda:0"]["memory"][-1] == 60 * GIB
    assert admin.get("/api/v1/nodes/gpu-01/history?range=1y").status_code == 422
    assert admin.get("/api/v1/nodes/none/history").status_code == 404


def test_the_page_without_a_node(db, admin):
    assert "No node has reported yet" in admin.get("/admin/devices").text
