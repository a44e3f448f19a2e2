"""Requests, leases and the decision."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import nodes, overview, service
from app.cluster.tables import Device, Node, Request
from app.config import settings
from app.db import now
from app.errors import Invalid
from app.quotas import service as quotas
from app.quotas.tables import Usage
from tests.factories import GIB, make_node, make_user, make_workspace


def ask(db: Session, workspace_id: str, owner_id: str, **more: Any) -> Request:
    values = {"owner_kind": "job", "devices": 1} | more
    return service.ask(db, owner_id=owner_id, workspace_id=workspace_id, **values)


def granted(db: Session) -> dict[str, list[str]]:
    return {grant.owner_id: sorted(grant.devices) for grant in service.decide(db)}


def reason(db: Session, owner_id: str) -> str:
    request = service.waiting(db, "job", owner_id)
    assert request is not None
    return request.reason


def test_whole_devices_go_to_the_oldest_and_the_rest_waits(db: Session) -> None:
    make_node(db)
    team = make_workspace(db).id
    for owner in ("a", "b", "c"):
        ask(db, team, owner)
    assert granted(db) == {"a": ["cpu:0"], "b": ["cpu:1"]}
    assert reason(db, "c") == "devices"
    assert granted(db) == {}
    service.release(db, "job", "a")
    assert granted(db) == {"c": ["cpu:0"]}


def test_shares_join_on_one_device_and_leave_the_other_whole(db: Session) -> None:
    make_node(db)
    team = make_workspace(db).id
    for owner in ("a", "b", "c"):
        ask(db, team, owner, memory=3 * GIB)
    assert granted(db) == {"a": ["cpu:0"], "b": ["cpu:0"], "c": ["cpu:1"]}
    ask(db, team, "whole")
    ask(db, team, "large", memory=6 * GIB)
    assert granted(db) == {}
    assert reason(db, "whole") == "devices"
    assert reason(db, "large") == "memory"


def test_a_whole_device_is_never_shared(db: Session) -> None:
    make_node(db, devices=1)
    team = make_workspace(db).id
    ask(db, team, "whole")
    granted(db)
    ask(db, team, "share", memory=1)
    assert granted(db) == {}
    assert reason(db, "share") == "devices"


def test_quota_holds_back_what_asks_next(db: Session) -> None:
    make_node(db)
    team, other = make_workspace(db).id, make_workspace(db).id
    quotas.put(db, team, 1)
    ask(db, team, "a")
    ask(db, team, "b", memory=GIB)
    ask(db, other, "c")
    assert set(granted(db)) == {"a", "c"}
    assert reason(db, "b") == "quota"
    quotas.put(db, team, None)
    service.decide(db)
    assert reason(db, "b") == "devices"


def test_a_lower_quota_lets_running_work_end(db: Session) -> None:
    make_node(db)
    team = make_workspace(db).id
    ask(db, team, "a")
    ask(db, team, "b")
    assert len(granted(db)) == 2
    quotas.put(db, team, 1)
    service.decide(db)
    assert len(service.leases_of(db, "job", "b")) == 1
    service.release(db, "job", "a")
    ask(db, team, "c")
    assert granted(db) == {}
    assert reason(db, "c") == "quota"


def test_the_workspace_that_holds_least_comes_first(db: Session) -> None:
    make_node(db, devices=3)
    busy, idle = make_workspace(db).id, make_workspace(db).id
    for number in range(4):
        ask(db, busy, f"busy-{number}")
    ask(db, idle, "idle-0")
    assert set(granted(db)) == {"busy-0", "idle-0", "busy-1"}


def test_within_a_workspace_priority_comes_before_age(db: Session) -> None:
    make_node(db, devices=1)
    team = make_workspace(db).id
    ask(db, team, "old")
    ask(db, team, "urgent", priority=service.URGENT)
    assert set(granted(db)) == {"urgent"}


def test_all_devices_of_a_request_are_on_one_node(db: Session) -> None:
    make_node(db, id="small", devices=1)
    make_node(db, id="large", devices=2)
    team = make_workspace(db).id
    ask(db, team, "one")
    ask(db, team, "two", devices=2)
    grants = service.decide(db)
    assert {grant.owner_id: grant.node_id for grant in grants} == {"one": "small", "two": "large"}


@pytest.mark.parametrize(
    "node",
    [
        {"seen_at": now() - timedelta(seconds=151)},
        {"cordoned": True},
        {"dead_at": now()},
    ],
    ids=["unreachable", "cordoned", "dead"],
)
def test_a_node_that_is_not_well_gets_nothing(db: Session, node: dict[str, Any]) -> None:
    team = make_workspace(db).id
    ask(db, team, "a")
    make_node(db, **node)
    assert granted(db) == {}
    assert reason(db, "a") == "node"


def test_a_request_for_one_node_waits_for_that_node(db: Session) -> None:
    make_node(db, id="here", cordoned=True)
    make_node(db, id="there")
    ask(db, make_workspace(db).id, "a", node_id="here")
    assert granted(db) == {}
    assert reason(db, "a") == "node"


@pytest.mark.parametrize(
    ("asked", "code", "number"),
    [
        ({"devices": 3}, "devices", "2"),
        ({"devices": 0}, "invalid", "one"),
        ({"memory": 9 * GIB}, "memory", "8.0"),
        ({"kind": "cuda"}, "devices", "cpu"),
    ],
)
def test_what_could_never_be_granted_is_refused(
    db: Session, asked: dict[str, Any], code: str, number: str
) -> None:
    make_node(db)
    with pytest.raises(Invalid) as refusal:
        ask(db, make_workspace(db).id, "a", **asked)
    assert refusal.value.code == code
    assert number in str(refusal.value)
    assert db.scalar(select(func.count()).select_from(Request)) == 0


def test_more_than_the_quota_is_refused(db: Session) -> None:
    make_node(db, devices=4)
    team = make_workspace(db).id
    quotas.put(db, team, 2)
    with pytest.raises(Invalid, match="Ask for 2 at most"):
        ask(db, team, "a", devices=3)
    quotas.put(db, team, 0)
    with pytest.raises(Invalid, match="quota is 0"):
        ask(db, team, "a")


def test_before_any_node_has_reported_a_request_waits(db: Session) -> None:
    ask(db, make_workspace(db).id, "a", devices=8)
    assert granted(db) == {}
    assert reason(db, "a") == "node"


def test_asking_twice_is_asking_once(db: Session) -> None:
    make_node(db)
    team = make_workspace(db).id
    assert ask(db, team, "a").id == ask(db, team, "a").id


def test_release_writes_the_ledger_once(db: Session) -> None:
    make_node(db)
    team = make_workspace(db).id
    ask(db, team, "a", devices=2)
    (grant,) = service.decide(db)
    for lease in service.leases_of(db, "job", "a"):
        lease.created_at -= timedelta(seconds=90)
    db.flush()
    service.release(db, "job", "a")
    service.release(db, "job", "a")
    rows = db.scalars(select(Usage)).all()
    assert {row.id for row in rows} == set(grant.leases)
    assert all(90_000 <= row.device_ms < 92_000 for row in rows)
    assert {(row.kind, row.workspace_id, row.owner_id) for row in rows} == {("device", team, "a")}
    assert service.waiting(db, "job", "a") is None
    assert service.leases_of(db, "job", "a") == []


def test_leases_and_the_ledger_say_for_whom(db: Session) -> None:
    make_node(db)
    user = make_user(db)
    request = ask(db, make_workspace(db).id, "a", user_id=user.id, seconds=60.0)
    assert (request.priority, request.seconds) == (service.NORMAL, 60.0)
    service.decide(db)
    assert [lease.user_id for lease in service.leases_of(db, "job", "a")] == [user.id]
    service.release(db, "job", "a")
    assert [row.user_id for row in db.scalars(select(Usage))] == [user.id]


def test_who_must_wait_again_keeps_the_place(db: Session) -> None:
    make_node(db, devices=1)
    team = make_workspace(db).id
    place = service.Place(since=now() - timedelta(hours=1), preemptions=1)
    ask(db, team, "new")
    ask(db, team, "again", place=place)
    assert set(granted(db)) == {"again"}


def test_withdraw_leaves_what_was_granted(db: Session) -> None:
    make_node(db, devices=1)
    team = make_workspace(db).id
    ask(db, team, "a")
    ask(db, team, "b")
    service.decide(db)
    service.withdraw(db, "job", "a")
    service.withdraw(db, "job", "b")
    assert service.waiting(db, "job", "a") is not None
    assert service.waiting(db, "job", "b") is None


# -- nodes -------------------------------------------------------------------------------


CARD = {"kind": "cuda", "model": "H200", "uuid": "GPU-1", "memory": 141 * GIB, "healthy": True}


def test_a_heartbeat_brings_the_inventory(db: Session) -> None:
    two = [CARD | {"name": "cuda:0", "stats": {}}, CARD | {"name": "cuda:1", "stats": {}}]
    nodes.beat(db, "gpu-1", "10.0.0.5", {"vllm": "0.32.0"}, two)
    nodes.beat(db, "gpu-1", "10.0.0.6", {"vllm": "0.32.0"}, two[:1])
    node = db.get_one(Node, "gpu-1", populate_existing=True)
    assert (node.host, node.facts) == ("10.0.0.6", {"vllm": "0.32.0"})
    healthy = dict(db.execute(select(Device.name, Device.healthy)).all())
    assert healthy == {"cuda:0": True, "cuda:1": False}


def test_a_dead_node_lives_again_with_its_second_heartbeat(db: Session) -> None:
    node = make_node(db, dead_at=now() + timedelta(milliseconds=1), seen_at=now())
    nodes.beat(db, node.id, node.host, {}, [])
    node.seen_at = node.dead_at - timedelta(seconds=1)  # silent since before it was declared dead
    nodes.beat(db, node.id, node.host, {}, [])
    assert node.dead_at is not None
    nodes.beat(db, node.id, node.host, {}, [])
    assert node.dead_at is None


def test_silent_nodes_are_buried_only_where_that_is_wanted(
    db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(db, seen_at=now() - timedelta(hours=2))
    assert service.bury(db) == []
    monkeypatch.setattr(settings, "node_dead_after", 3600)
    assert service.bury(db) == []  # the database itself is younger than that
    monkeypatch.setattr(settings, "node_dead_after", 0.001)
    assert service.bury(db) == [node.id]
    assert service.bury(db) == []
    assert not service.usable(db, node.id)


def test_the_overview_tells_who_holds_and_who_waits(db: Session) -> None:
    make_node(db, id="n", devices=1)
    team, other = make_workspace(db, name="Red"), make_workspace(db, name="Blue")
    ask(db, team.id, "a")
    service.decide(db)
    ask(db, other.id, "b", memory=GIB)
    service.decide(db)
    seen = overview.overview(db)
    (device,) = seen["nodes"][0]["devices"]
    assert [(h["owner_id"], h["workspace"]) for h in device["holders"]] == [("a", "Red")]
    assert device["used"] == device["memory"]
    assert [(w["owner_id"], w["reason"]) for w in seen["waiting"]] == [("b", "devices")]
    by_name = {row["name"]: row for row in overview.limits(db)}
    assert by_name["Red"]["held"] == 1
    assert by_name["Blue"] | {"workspace_id": ""} == {
        "workspace_id": "",
        "name": "Blue",
        "limit": None,
        "held": 0,
        "waiting": 1,
        "weight": 1.0,
        "priority": 1,
    }
    assert overview.devices(db, team.id)[0]["holders"]
    assert not overview.devices(db, other.id)[0]["holders"]
    assert overview.devices(db, other.id)[0]["state"] == "held"
