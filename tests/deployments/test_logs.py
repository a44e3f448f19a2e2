"""Engines' logs: their end, their starts, searched, kept, and as they grow."""

import asyncio

import orjson
import pytest
from sqlalchemy.orm import Session

from app.deployments import logs, replicas
from app.deployments.tables import Deployment, Replica
from app.queue import transaction
from tests.conftest import Client
from tests.factories import make_deployment, make_replica

HOSTILE = b"\x1b[31mred\x1b[0m <script>alert(1)</script> \x1b]0;title\x07 \x00 end\r\nnext\n"


@pytest.fixture
def deployment(db: Session, client: Client) -> Deployment:
    """Two replicas; the first was started twice and runs."""
    made = make_deployment(db, client.workspace, client.user, name="mood")
    make_replica(db, made, index=1, state="pending")
    replica = make_replica(db, made, state="ready", fence=1)
    assert replicas.ship_log(db, replica.id, 1, 0, HOSTILE + "模型 loaded\n".encode())
    replica.fence = 2
    assert replicas.ship_log(db, replica.id, 2, 0, b"second start\nhalf a")
    db.commit()
    return made


def of(db: Session, deployment: Deployment) -> Replica:
    return logs.chosen(db, deployment)


# -- the fragment ------------------------------------------------------------------------


def test_the_newest_start_is_shown_and_another_can_be_chosen(db, deployment, client):
    page = f"/deployments/{deployment.id}"
    assert f'hx-get="{page}/log"' in client.get(f"{page}?tab=log").text
    newest = client.get(f"{page}/log").text
    assert "second start" in newest
    assert "half a" not in newest  # its other half is still to come
    assert newest.count("<option") == 5  # two replicas; newest, 2, 1
    first = client.get(f"{page}/log", params={"start": "1"}).text
    assert "模型 loaded" in first
    assert "second start" not in first
    assert client.get(f"{page}/log", params={"start": "7"}).status_code == 404
    assert client.get(f"{page}/log", params={"replica": "9"}).status_code == 404
    assert client.get(f"{page}/log", params={"start": "x"}).status_code == 422
    other = logs.writers(db, deployment.id)[1]
    silent = client.get(f"{page}/log", params={"replica": other.id})
    assert silent.status_code == 200


def test_nothing_that_an_engine_prints_is_obeyed(deployment, client):
    page = f"/deployments/{deployment.id}"
    for text in (
        client.get(f"{page}/log", params={"start": "1"}).text,
        client.get(f"{page}/log/search", params={"start": "1", "q": "end"}).text,
    ):
        assert "\x1b" not in text
        assert "\0" not in text
        assert "<script>alert" not in text
        assert "red &lt;script&gt;alert(1)" in text
    kept = client.get(f"{page}/log.txt", params={"start": "1"})
    assert kept.text == "red <script>alert(1)</script>   end\nnext\n模型 loaded\n"
    assert kept.headers["content-type"].startswith("text/plain")
    assert kept.headers["content-disposition"] == 'attachment; filename="mood-1-1.log"'


def test_a_long_log_is_cut_on_the_page_and_searched_and_kept_whole(db, deployment, client):
    replica = of(db, deployment)
    replica.fence, offset = 3, 0
    for number in range(40):
        data = b"".join(b"line %d of %d\n" % (line, number) for line in range(500))
        assert replicas.ship_log(db, replica.id, 3, offset, data)
        offset += len(data)
    db.commit()
    page = f"/deployments/{deployment.id}"
    shown = client.get(f"{page}/log").text
    assert "line 499 of 39" in shown
    assert "line 0 of 0" not in shown
    assert "The end of the log" in shown
    found = client.get(f"{page}/log/search", params={"q": "LINE 7 of 3"}).text
    assert "<mark>line 7 of 3</mark>" in found
    assert "11 lines" in found  # 3, 30 to 39
    assert len(client.get(f"{page}/log.txt").text) == offset


def test_a_deployment_that_never_ran_has_an_empty_log(db, client):
    made = make_deployment(db, client.workspace, client.user)
    db.commit()
    answer = client.get(f"/deployments/{made.id}/log")
    assert answer.status_code == 200
    assert "data-stream" not in answer.text


# -- following ---------------------------------------------------------------------------


def event(frame: bytes) -> tuple[str, str, dict]:
    kind, at, data, *_ = frame.decode().split("\n")
    return kind.removeprefix("event: "), at[4:], orjson.loads(data[6:])


def test_it_follows_from_where_the_page_ends_and_into_the_next_start(db, deployment):
    replica = of(db, deployment)
    place = logs.end(db, replica, 2).place
    assert logs.look(replica.id, place, None).frames == []  # half a line is no line
    with transaction() as other:
        assert replicas.ship_log(other, replica.id, 2, 19, b" line\n")
    found = logs.look(replica.id, place, None)
    (frame,) = found.frames
    assert event(frame) == ("log", "2.25", {"text": "half a line\n"})
    assert not found.done
    # a reader that comes back with the last id misses nothing and gets nothing twice
    assert logs.look(replica.id, logs.Place.parse("2.25"), None).frames == []
    with transaction() as other:
        other.get_one(Replica, replica.id).fence = 3
        assert replicas.ship_log(other, replica.id, 3, 0, b"third\n")
    found = logs.look(replica.id, logs.Place.parse("2.25"), None)
    assert [event(frame) for frame in found.frames] == [("start", "3.0", {"start": 3})]
    found = logs.look(replica.id, found.place, None)
    assert [event(frame) for frame in found.frames] == [("log", "3.6", {"text": "third\n"})]
    # who asked for the second start alone is told that it is over
    assert logs.look(replica.id, logs.Place.parse("2.25"), 2).done


@pytest.mark.parametrize("text", ["", "1", "a.b", "1.2.3", "-1.2", "9" * 20 + ".0", "1.٣"])
def test_a_strange_last_id_is_the_beginning(text):
    assert logs.Place.parse(text) in (logs.Place(), logs.Place(1, 3))


def test_the_stream_ends_with_the_start_it_is_of(deployment, client):
    stream = f"/deployments/{deployment.id}/log/stream"
    answer = client.get(stream, params={"start": "1"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [part for part in answer.text.split("\n\n") if part.startswith("event")]
    assert [frame.split("\n")[0] for frame in frames] == ["event: log", "event: done"]
    again = client.get(stream, params={"start": "1"}, headers={"last-event-id": "1.60"})
    assert "alert" not in again.text


def test_no_session_is_held_while_it_waits(db, deployment, monkeypatch):
    monkeypatch.setattr(logs, "LOOK", 0.01)
    monkeypatch.setattr(logs, "LIFE", 0.3)
    replica = of(db, deployment)

    async def read() -> list[bytes]:
        return [frame async for frame in logs.follow(replica.id, logs.Place(), None)]

    frames = asyncio.run(read())
    assert b"second start" in b"".join(frames)
    assert frames[-1].startswith(b"event: log")  # it only paused: the reader comes back
