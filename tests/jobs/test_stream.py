"""The event stream while a job runs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.db import engine
from app.jobs import runs, stream
from app.queue import transaction
from tests.factories import make_job, make_node, make_workspace
from tests.jobs.people import owner


def plain(message: str, params: dict[str, Any]) -> str:
    return message % params if params else message


@pytest.fixture
def job_id(db: Session) -> str:
    """A running job, fence 1."""
    team = make_workspace(db)
    make_node(db, id="local")
    job = make_job(db, team, owner(db, team))
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=team.id, devices=1)
    cluster.decide(db)
    runs.grant(db, job.id, "local")
    runs.mark_started(db, job.id, 1, 1, 1.0)
    db.commit()
    return job.id


def kind(frame: bytes) -> str:
    return frame.split(b"\n")[0].removeprefix(b"event: ").decode()


async def take(frames: AsyncIterator[bytes], wanted: str) -> bytes:
    """The next frame of a kind."""
    async for frame in frames:
        if kind(frame) == wanted:
            return frame
    raise AssertionError(f"the stream ended before {wanted}")


def ship(job_id: str, **what: Any) -> None:
    with transaction() as db:
        assert runs.ship(db, job_id, 1, **what)


def test_what_happens_arrives_and_no_session_is_held(
    job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.01)

    async def watch() -> None:
        frames = stream.follow(job_id, stream.Cursor(), plain)
        assert b'"state":"running"' in await take(frames, "state")
        assert engine().pool.checkedout() == 0  # type: ignore[attr-defined]
        ship(job_id, log=(0, b"one\n"))
        assert b'{"text":"one\\n"}' in await take(frames, "log")
        ship(job_id, log=(4, b"two\n"), metrics=[{"step": 1, "loss": 2.5}])
        assert b'"loss":2.5' in await take(frames, "metrics")
        assert b'{"text":"two\\n"}' in await take(frames, "log")
        ship(job_id, metrics=[{"step": 1, "eval_loss": 3.5}])
        assert b'"eval_loss":3.5' in await take(frames, "metrics")
        with transaction() as db:
            runs.end(db, job_id, 1, outcome="failed")
        assert b'"state":"failed"' in await take(frames, "state")
        assert b'{"state":"failed"}' in await take(frames, "done")
        assert [frame async for frame in frames] == []
        assert engine().pool.checkedout() == 0  # type: ignore[attr-defined]

    asyncio.run(watch())


def test_a_stream_speaks_up_when_it_is_quiet_and_ends_in_time(
    job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOOK", 0.01)
    monkeypatch.setattr(stream, "QUIET", 0.02)
    monkeypatch.setattr(stream, "LIFE", 0.5)

    async def watch() -> list[str]:
        return [kind(f) async for f in stream.follow(job_id, stream.Cursor(), plain)]

    kinds = asyncio.run(watch())
    assert ": still here" in kinds
    assert "done" not in kinds


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1.2.3.4.5.6", "-1.0.0.0", "1.2.3.٣x", "9" * 99]
)
def test_a_foreign_cursor_starts_from_the_start(text: str) -> None:
    assert stream.Cursor.parse(text) == stream.Cursor()


def test_a_cursor_survives_the_wire() -> None:
    cursor = stream.Cursor(2, 4711, 12, 9)
    assert stream.Cursor.parse(str(cursor)) == cursor
