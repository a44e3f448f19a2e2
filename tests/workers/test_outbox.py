"""The outbox over real run directories and the real database: nothing lost, nothing twice."""

import json
import random

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.jobs import runs as jobs
from app.jobs.tables import JobEvent, JobLog, JobMetric
from app.nodework import asking
from app.queue import transaction
from tests import factories
from workers import outbox
from workers.outbox import Outbox, whole_characters


@pytest.fixture
def job(db):
    user = factories.make_user(db)
    workspace = factories.make_workspace(db, owner=user)
    made = factories.make_job(db, workspace, user, state="running", fence=1, pid=1, pid_started=1.0)
    db.commit()
    return made


@pytest.fixture
def box(job, tmp_path):
    return Outbox(job.id, 1, tmp_path)


def write(box, name, data, mode="a"):
    data = data if isinstance(data, bytes) else data.encode()
    with (box.directory / name).open(mode + "b") as file:
        file.write(data)


def line(**values):
    return json.dumps(values) + "\n"


def ship_all(box, *, final=False):
    for _ in range(10_000):
        if not box.ship(final=final):
            return
    raise AssertionError("it never comes to an end")


def log_of(job, fence=1):
    with transaction() as db:
        chunks = db.scalars(
            select(JobLog)
            .where(JobLog.job_id == job.id, JobLog.fence == fence)
            .order_by(JobLog.offset)
        ).all()
    end = 0
    for chunk in chunks:
        assert chunk.offset == end, "a gap or an overlap"
        assert len(chunk.data) <= outbox.CHUNK
        end += len(chunk.data)
    return b"".join(chunk.data for chunk in chunks)


def steps_of(job):
    with transaction() as db:
        rows = db.scalars(
            select(JobMetric).where(JobMetric.job_id == job.id).order_by(JobMetric.step)
        ).all()
    return [(row.step, row.fence) for row in rows]


def events_of(job):
    with transaction() as db:
        return [row.message for row in db.scalars(select(JobEvent).order_by(JobEvent.id))]


def test_ships_what_is_new_and_then_nothing(job, box):
    write(box, "log", "one\n")
    write(box, "metrics.jsonl", line(step=1, loss=2.0) + line(step=2, loss=1.5))
    write(box, "events.jsonl", line(t=1.5, kind="checkpoint", message="Saved.", params={}))
    write(
        box,
        "status.json",
        json.dumps({"state": "running", "phase": "train", "step": 2, "total": 9}),
    )
    ship_all(box)
    assert not box.ship()
    assert log_of(job) == b"one\n"
    assert steps_of(job) == [(1, 1), (2, 1)]
    assert events_of(job) == ["Saved."]
    with transaction() as db:
        row = db.get_one(type(job), job.id)
        assert (row.phase, row.step, row.total) == ("train", 2, 9)


def test_an_empty_or_missing_directory_ships_nothing(job, box):
    assert not box.ship()
    assert not Outbox(job.id, 1, box.directory / "nowhere").ship(final=True)
    assert log_of(job) == b""


def test_a_half_written_line_waits(job, box):
    write(box, "metrics.jsonl", line(step=1, loss=1.0) + '{"step": 2, "lo')
    ship_all(box)
    assert steps_of(job) == [(1, 1)]
    write(box, "metrics.jsonl", 'ss": 0.5}\n')
    ship_all(box)
    assert steps_of(job) == [(1, 1), (2, 1)]


def test_what_is_no_line_of_ours_is_passed_over(job, box):
    bad = [
        "not json",
        "[1]",
        '{"step": "x"}',
        '{"step": -1}',
        '{"step": 1e400}',
        '"\\r"',
        "\r",
        "[" * 100_000,
        "",
        '{"step": true}',
    ]
    write(box, "metrics.jsonl", "\n".join(bad) + "\n" + line(step=3, loss=float("nan")))
    bad = ['{"t": 1}', '{"t": "x", "kind": "a", "message": "b"}', '{"t": 1e18, "kind": "a"}']
    bad += ['{"t": 1, "kind": "a\\u0000", "message": "b"}', "\xff"]
    write(box, "events.jsonl", "\n".join(bad) + "\n" + line(t=1, kind="k", message="nul \0 here"))
    write(
        box, "status.json", '{"state": "running", "phase": "a\\u0000b", "step": -3, "total": "9"}'
    )
    ship_all(box)
    assert [step for step, _ in steps_of(job)] in ([3], [1, 3])
    assert events_of(job) == ["nul  here"]


def test_an_endless_line_is_passed_over(job, box, monkeypatch):
    monkeypatch.setattr(outbox, "BLOCK", 1000)
    write(box, "metrics.jsonl", "x" * 5000 + "\n" + line(step=1, loss=1.0))
    ship_all(box)
    assert steps_of(job) == [(1, 1)]


def test_many_lines_go_in_portions(job, box, monkeypatch):
    monkeypatch.setattr(outbox, "LINES", 10)
    write(box, "metrics.jsonl", "".join(line(step=n, loss=1.0) for n in range(1, 36)))
    assert box.ship()
    assert len(steps_of(job)) == 10
    ship_all(box)
    assert len(steps_of(job)) == 35


def test_a_log_is_cut_between_characters(job, box, monkeypatch):
    monkeypatch.setattr(outbox, "CHUNK", 10)
    text = "炼丹 refining 🔥 é\n" * 20
    write(box, "log", text)
    ship_all(box)
    with transaction() as db:
        for chunk in db.scalars(select(JobLog)):
            chunk.data.decode()
    assert log_of(job).decode() == text


def test_half_a_character_waits_for_the_rest_but_not_for_ever(job, box):
    fire = "🔥".encode()
    write(box, "log", b"ok" + fire[:2])
    ship_all(box)
    assert log_of(job) == b"ok"
    write(box, "log", fire[2:])
    ship_all(box)
    assert log_of(job) == b"ok" + fire
    write(box, "log", fire[:3])
    ship_all(box, final=True)
    assert log_of(job) == b"ok" + fire + fire[:3]


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        (b"a\xe7", b"a"),
        (b"a\xe7\x82", b"a"),
        ("a炼".encode(), "a炼".encode()),
        (b"\xf0\x9f\x94", b""),
        (b"\x80\x80\x80\x80\x80", b"\x80\x80\x80\x80\x80"),  # no UTF-8 at all: taken as it is
        (b"a\xff", b"a"),  # may still become something; the final shipping takes it
    ],
)
def test_whole_characters(data, whole):
    assert whole_characters(data) == whole


def test_a_new_node_goes_on_where_the_old_one_stopped(job, box):
    write(box, "log", "first\n")
    write(box, "metrics.jsonl", line(step=1, loss=1.0) + line(step=2, loss=1.0))
    write(box, "events.jsonl", line(t=1.123456, kind="k", message="one"))
    ship_all(box)
    write(box, "log", "second\n")
    write(box, "metrics.jsonl", line(step=2, eval_loss=0.5) + line(step=3, loss=1.0))
    write(box, "events.jsonl", line(t=2.7, kind="k", message="two"))
    ship_all(Outbox(job.id, 1, box.directory))
    ship_all(Outbox(job.id, 1, box.directory), final=True)
    assert log_of(job) == b"first\nsecond\n"
    assert [step for step, _ in steps_of(job)] == [1, 2, 3]
    assert events_of(job) == ["one", "two"]
    with transaction() as db:
        assert db.get_one(JobMetric, (job.id, 2)).data["eval_loss"] == 0.5
        assert db.get_one(JobMetric, (job.id, 2)).data["loss"] == 1.0


def test_a_later_attempt_replaces_what_it_did_again(job, box, tmp_path):
    write(box, "metrics.jsonl", "".join(line(step=n, loss=1.0) for n in (1, 2, 3)))
    ship_all(box)
    with transaction() as db:
        db.get_one(type(job), job.id).fence = 2
    second = Outbox(job.id, 2, tmp_path / "second")
    second.directory.mkdir()
    write(second, "metrics.jsonl", "".join(line(step=n, loss=0.5) for n in (3, 4)))
    ship_all(second)
    assert steps_of(job) == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_stale_fence_is_refused(job, box):
    write(box, "log", "early\n")
    ship_all(box)
    with transaction() as db:
        db.get_one(type(job), job.id).fence = 2
    write(box, "log", "late\n")
    write(box, "metrics.jsonl", line(step=1, loss=1.0))
    assert not box.ship()
    assert box.refused
    assert not box.ship(final=True)
    assert log_of(job) == b"early\n"
    assert steps_of(job) == []


def test_a_failed_commit_loses_and_doubles_nothing(job, box, monkeypatch):
    """Also when the commit did happen and only its answer was lost."""
    rng = random.Random(7)
    real = asking.transaction
    trouble = {"left": 30}

    class Flaky:
        def __enter__(self):
            self.inner = real()
            self.before = trouble["left"] > 0 and rng.random() < 0.3
            if self.before:
                trouble["left"] -= 1
                raise OperationalError("away", None, Exception())
            return self.inner.__enter__()

        def __exit__(self, *error):
            self.inner.__exit__(*error)
            if error[0] is None and trouble["left"] > 0 and rng.random() < 0.3:
                trouble["left"] -= 1
                raise OperationalError("committed, but nobody heard", None, Exception())

    monkeypatch.setattr(asking, "transaction", Flaky)
    expected = b""
    for number in range(1, 60):
        text = f"{number} 炼 ".encode() * rng.randint(1, 50)
        expected += text
        write(box, "log", text)
        write(box, "metrics.jsonl", line(step=number, loss=1.0))
        write(box, "events.jsonl", line(t=number + 0.25, kind="k", message=f"event {number}"))
        try:
            box.ship()
        except OperationalError:
            continue
    trouble["left"] = 0
    ship_all(box, final=True)
    assert log_of(job) == expected
    assert [step for step, _ in steps_of(job)] == list(range(1, 60))
    assert events_of(job) == [f"event {number}" for number in range(1, 60)]


def test_a_log_has_a_limit_and_says_so(job, box, monkeypatch):
    monkeypatch.setattr(outbox, "LOG_LIMIT", 1000)
    write(box, "log", b"x" * 1000)
    ship_all(box)
    assert log_of(job) == b"x" * 1000  # exactly the limit is nothing to complain of
    write(box, "log", b"y" * 5000)
    ship_all(box)
    ship_all(Outbox(job.id, 1, box.directory), final=True)
    assert log_of(job) == b"x" * 1000 + outbox.CUT


def test_one_call_ships_one_chunk_of_a_flood(job, box):
    write(box, "log", b"flood\n" * 200_000)
    assert box.ship()
    assert len(log_of(job)) == outbox.CHUNK
    ship_all(box)
    assert len(log_of(job)) == 1_200_000


def test_nothing_is_written_when_nothing_is_new(job, box, monkeypatch):
    write(box, "log", "x\n")
    ship_all(box)
    monkeypatch.setattr(jobs, "ship", None)  # not called at all
    assert not box.ship()
