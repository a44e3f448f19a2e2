"""What devices did, over time."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.cluster import nodes, readings, service
from app.cluster.tables import Device, DeviceReading, Lease
from app.db import now
from tests.factories import make_device, make_node, make_workspace


@pytest.fixture
def device(db):
    stats = {"use": 80, "memory": 1000, "temperature": 60, "power": 512.5}
    return make_device(db, make_node(db, id="n", devices=0), stats=stats)


def add(db, device, at, step=readings.PERIOD, **values):
    row = {"use": 50.0, "memory": 100, "temperature": None, "power": None} | values
    db.add(DeviceReading(device_id=device.id, at=at, step=step, **row))
    db.flush()


def rows(db):
    query = select(DeviceReading).order_by(DeviceReading.at)
    return db.scalars(query.execution_options(populate_existing=True)).all()


def test_a_reading_is_what_the_heartbeat_left(db, device):
    make_device(db, make_node(db, id="other", devices=0), stats={"use": 1})
    make_device(db, device.node_id and db.get_one(nodes.Node, "n"), name="cpu:1", healthy=False)
    readings.record(db, "n", 15)
    (row,) = rows(db)
    assert (row.device_id, row.step) == (device.id, 15)
    assert (row.use, row.memory, row.temperature, row.power) == (80, 1000, 60, 512.5)


def test_leases_add_up_how_busy_they_were(db, device):
    team = make_workspace(db)
    service.ask(db, owner_kind="job", owner_id="a", workspace_id=team.id, devices=1)
    service.decide(db)
    for use in (100, 50, 0, 3):
        device.stats = {"use": use}
        db.flush()
        readings.record(db, "n", 15)
    lease = db.scalar(select(Lease).execution_options(populate_existing=True))
    assert (lease.measured, lease.worked) == (60, pytest.approx(15 * 1.53))
    assert lease.active_at is not None
    before = lease.active_at
    device.stats = {"memory": 1}  # a slice of a card does not say how busy it is
    readings.record(db, "n", 15)
    db.refresh(lease)
    assert (lease.measured, lease.active_at) == (60, before)
    service.release(db, "job", "a")
    readings.record(db, "n", 15)
    db.refresh(lease)
    assert lease.measured == 60


def test_readings_are_thinned_to_minutes_and_then_to_hours(db, device):
    minute = readings.floor(now() - timedelta(days=1, minutes=5), 60)
    for second, use in ((0, 10), (15, 20), (30, None), (45, 30)):
        add(db, device, minute + timedelta(seconds=second), use=use, memory=second)
    add(db, device, now() - timedelta(hours=23))
    readings.clear(db)
    first, second = rows(db)
    assert (first.at, first.step, first.use, first.memory) == (minute, 60, 20, 23)
    assert first.temperature is None
    assert second.step == 15
    hour = readings.floor(now() - timedelta(days=7, hours=2), 3600)
    for number in range(60):
        add(db, device, hour + timedelta(minutes=number), step=60, use=number)
    readings.clear(db)
    found = rows(db)[0]
    assert (found.at, found.step, found.use) == (hour, 3600, 29.5)


def test_one_piece_is_thinned_at_a_time(db, device):
    begin = readings.floor(now() - timedelta(days=2), 60)
    for number in range(40):
        add(db, device, begin + timedelta(seconds=15 * number))
    for left in (36, 32, 28):
        readings.clear(db)
        count = db.scalar(select(func.count()).where(DeviceReading.step == 15))
        assert count == left


def test_what_is_a_month_old_goes(db, device):
    for days in (29, 31, 400):
        add(db, device, readings.floor(now() - timedelta(days=days), 3600), step=3600)
    readings.clear(db)
    assert [(now() - row.at).days for row in rows(db)] == [29]


def test_curves_join_what_is_fine_and_what_is_coarse(db, device):
    step = readings.RANGES["7d"][1]
    begin = readings.floor(now() - timedelta(hours=30), step)
    add(db, device, begin, step=60, use=40)
    add(db, device, begin + timedelta(seconds=60), step=15, use=90)
    add(db, device, begin + timedelta(seconds=75), step=15, use=None)
    found = readings.curves(db, [device.id], "7d")
    curve = found.devices[device.id]["use"]
    assert curve[found.t.index(int(begin.timestamp()))] == 50
    assert sum(value is not None for value in curve) == 1
    assert len(curve) == len(found.t) == 168
    assert readings.curves(db, [], "1h").devices == {}


# -- what nodes say ----------------------------------------------------------------------


def card(name, **more):
    return {"name": name, "kind": "cuda", "model": "H200", "uuid": f"U-{name}", "memory": 100,
            "healthy": True, "facts": {"card": "GPU-0"}, "stats": {"use": 1}} | more  # fmt: skip


def listed(db):
    found = db.scalars(
        select(Device).order_by(Device.name).execution_options(populate_existing=True)
    )
    return {one.name: one for one in found}


def test_a_lost_card_keeps_what_it_once_said(db):
    nodes.beat(db, "n", "h", {}, [card("cuda:0")])
    lost = {"code": "lost", "grave": True, "why": "GPU is lost"}
    blank = {"model": "", "uuid": "", "memory": 0, "facts": {}, "stats": {}}
    nodes.beat(db, "n", "h", {}, [card("cuda:0", healthy=False, problems=[lost], **blank)])
    found = listed(db)["cuda:0"]
    assert (found.model, found.uuid, found.memory) == ("H200", "U-cuda:0", 100)
    assert (found.healthy, found.problems, found.stats) == (False, [lost], {})


def test_a_card_that_is_cut_up_retires_the_whole_one(db):
    nodes.beat(db, "n", "h", {}, [card("cuda:0"), card("cuda:1", facts={"card": "GPU-1"})])
    parts = [card(f"cuda:0:{n}", facts={"card": "GPU-0", "slice": "1g"}) for n in range(2)]
    nodes.beat(db, "n", "h", {}, parts)
    found = listed(db)
    assert {name: (one.healthy, one.retired) for name, one in found.items()} == {
        "cuda:0": (False, True),
        "cuda:0:0": (True, False),
        "cuda:0:1": (True, False),
        "cuda:1": (False, False),  # that one is missed
    }
    assert found["cuda:1"].problems == [{"code": "missing", "grave": True}]
    nodes.beat(db, "n", "h", {}, [card("cuda:0")])
    assert not listed(db)["cuda:0"].retired


def test_labels_are_given_at_the_start_and_kept(db):
    nodes.beat(db, "n", "h", {}, [], {"room": "b", "gpu": "h200"})
    nodes.label(db, "n", {"room": "c"})
    nodes.beat(db, "n", "h", {}, [])
    assert db.get_one(nodes.Node, "n").labels == {"room": "c"}
    nodes.beat(db, "n", "h", {}, [], {"gpu": "h200"})
    assert db.get_one(nodes.Node, "n").labels == {"room": "c", "gpu": "h200"}
