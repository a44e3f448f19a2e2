"""What a decision reads again: all that has changed, whoever changed it and whenever it commits."""

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.cluster import service
from app.cluster.board import Known
from app.cluster.changes import TRUSTED
from app.cluster.tables import Device, Node, Request
from app.db import engine, now
from tests.cluster.test_service import ask
from tests.factories import GIB, make_device, make_node, make_workspace


@pytest.fixture
def known() -> Known:
    return Known()


def look(db: Session, known: Known) -> tuple[dict[str, int], set[str], dict[str, str]]:
    """{node: devices that are well}, owners who hold, {who waits: reason}; as a fresh look has it."""
    found = []
    for one in (known, Known()):
        service.lock(db)
        with one.look(db, now() - timedelta(seconds=150)) as board:
            found.append(
                (
                    {id_: len(node.devices) for id_, node in board.nodes.items() if node.usable},
                    set(board.holders),
                    {id_: waits.reason for id_, waits in board.waiting.items()},
                )
            )
    assert found[0] == found[1]
    return found[0]


def test_each_change_is_seen(db: Session, known: Known) -> None:
    node = make_node(db, id="one", devices=2)
    team = make_workspace(db).id
    db.commit()
    assert look(db, known) == ({"one": 2}, set(), {})
    first = ask(db, team, "a").id
    db.commit()
    assert look(db, known)[2] == {first: "new"}
    service.decide(db)
    db.commit()
    assert look(db, known)[1:] == ({first}, {})
    second = ask(db, team, "b", devices=2).id
    service.decide(db)
    db.commit()
    assert look(db, known)[2] == {second: "devices"}
    service.rest(db)
    db.commit()
    assert look(db, known)[2] == {second: "maintenance"}
    service.release(db, "job", "a")
    service.withdraw(db, "job", "b")
    make_device(db, node, name="cpu:9", memory=GIB)
    db.commit()
    assert look(db, known) == ({"one": 3}, set(), {})
    db.get_one(Device, make_device(db, node, name="cpu:8").id).healthy = False
    node.cordoned = True
    make_node(db, id="two", devices=1)
    db.commit()
    assert look(db, known)[0] == {"two": 1}


def test_what_is_rolled_back_was_never_there(db: Session, known: Known) -> None:
    make_node(db, id="one", devices=2)
    team = make_workspace(db).id
    waits = ask(db, team, "a").id
    db.commit()
    look(db, known)
    db.commit()
    make_node(db, id="two", devices=1)
    ask(db, team, "b")
    assert len(look(db, known)[0]) == 2
    with known.look(db, now() - timedelta(seconds=150)) as board:
        one = board.waiting[waits]
        board.place(one, board.nodes["one"].devices[:1], 0.0)
        known.changes.unsure.requests.add(waits)
        known.changes.unsure.leases.add("one")
    db.rollback()
    assert look(db, known) == ({"one": 2}, set(), {waits: "new"})


def test_what_commits_late_is_seen(db: Session, known: Known) -> None:
    make_node(db, id="one", devices=2)
    team = make_workspace(db).id
    db.commit()
    look(db, known)
    db.commit()
    with Session(engine()) as slow:
        waits = ask(slow, team, "slow").id
        for number in range(3):  # others come and go meanwhile
            ask(db, team, f"quick-{number}")
            db.commit()
            assert waits not in look(db, known)[2]
            db.commit()
        slow.commit()
    assert waits in look(db, known)[2]


def spoil(db: Session, known: Known) -> None:
    with known.look(db, now() - timedelta(seconds=150)) as board:
        board.remove("one")
        raise KeyError


def test_a_look_that_fails_is_forgotten(db: Session, known: Known) -> None:
    make_node(db, id="one", devices=2)
    db.commit()
    look(db, known)
    with pytest.raises(KeyError):
        spoil(db, known)
    assert look(db, known)[0] == {"one": 2}


def test_who_was_away_looks_at_everything_and_old_changes_go(db: Session, known: Known) -> None:
    make_node(db, id="one", devices=2)
    db.commit()
    look(db, known)
    db.commit()
    known.changes.looked -= TRUSTED + 1
    known.changes.old = (known.changes.old[0] - 1000, known.changes.old[1])
    make_node(db, id="two", devices=2)
    db.commit()
    left = text("SELECT min(xid) FROM board_changes WHERE xid > 0")
    first = db.scalar(left)
    assert len(look(db, known)[0]) == 2
    db.commit()
    known.changes.old = (known.changes.old[0] - 1000, known.changes.old[1])
    assert len(look(db, known)[0]) == 2
    assert (db.scalar(left) or first + 1) > first


def test_another_database_is_read_anew(db: Session, known: Known) -> None:
    """Restored or emptied behind its back: the changes have another origin, or none."""
    make_node(db, id="one", devices=2)
    db.commit()
    look(db, known)
    db.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers
    for table in (Device, Node, Request):
        db.execute(text(f"DELETE FROM {table.__tablename__}"))
    db.execute(text("DELETE FROM board_changes"))
    db.commit()
    assert look(db, known) == ({}, set(), {})
