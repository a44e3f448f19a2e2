"""Runs whose nudges are late, that are asked to stop, or whose node goes and comes back."""

# ruff: noqa: F811 - fixtures are imported by their names

import shutil
import threading
import time

import pytest
from sqlalchemy import select

from app import storage
from app.cluster import service as cluster
from app.cluster.tables import Lease
from app.config import settings
from app.db import now
from app.jobs import runs as jobs
from app.jobs import service
from app.queue import transaction
from tests.workers import stand_in
from tests.workers.stand_in import SUCCEEDS, TRAINS, has_status, is_in, look, start, tick_until
from tests.workers.test_runs import held, nothing_is_left, owner, stage, steps, text_of  # noqa: F401
from workers import node, outbox, process, runs, starting, sweep
from workers.starting import directory_of

# -- nudges that are late, doubled or lost -----------------------------------------------


def test_doubled_nudges_start_one_process(db, owner, stage):
    stage("hang()")
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    nudges = [threading.Thread(target=starting.start_run, args=(job.id, 1)) for _ in range(5)]
    for nudge in nudges:
        nudge.start()
    for nudge in nudges:
        nudge.join()
    starting.start_run(job.id, 1)
    assert len(process.leftovers(job.id, 1)) == 1
    service.cancel(db, owner[0].id, job.id)
    db.commit()
    tick_until(is_in(job.id, "cancelled"))


def test_a_nudge_for_another_fence_starts_nothing(db, owner, stage):
    stage("hang()")
    job = stand_in.make_job(db, *owner)
    starting.start_run(job.id, 0)  # not even granted
    sweep.sweep()
    starting.start_run(job.id, 2)
    starting.start_run("job_unknown", 1)
    assert process.attempts() == {}
    assert not directory_of(job.id, 2).exists()
    service.cancel(db, owner[0].id, job.id)
    db.commit()
    tick_until(is_in(job.id, "cancelled"))


def test_a_starter_killed_before_it_said_so(db, owner, stage, monkeypatch):
    """The process runs, nobody wrote its pid into the row: the node's loop adopts it."""
    stage(SUCCEEDS.replace('status("running")', 'status("running"); time.sleep(1)'))
    job = stand_in.make_job(db, *owner)
    sweep.sweep()

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "mark_started", killed)
        with pytest.raises(KeyboardInterrupt):
            starting.start_run(job.id, 1)
    starting_pid = process.leftovers(job.id, 1)[0].pid
    assert look(job.id).pid is None
    runs.tick(settings.node)
    assert (look(job.id).state, look(job.id).pid) == ("running", starting_pid)
    tick_until(is_in(job.id, "succeeded"))


def test_a_lost_nudge_is_sent_again(db, owner, stage):
    stage(SUCCEEDS)
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    with transaction() as session:
        jobs.resend(session)
        nudge = ("workers.start_run", (job.id, 1), f"node.{settings.node}")
        assert nudge in session.info["outbox"]
    starting.start_run(job.id, 1)
    tick_until(is_in(job.id, "succeeded"))


def test_a_new_attempt_ends_an_older_one_first(db, owner, stage):
    """The node was declared dead with the process alive; the job comes back to the same node."""
    stage("signal.signal(signal.SIGTERM, signal.SIG_IGN); status('running'); hang()")
    job = stand_in.make_job(db, *owner)
    job_id, first = start(job)
    with transaction() as session:
        jobs.end(session, job_id, first, outcome="died")
    assert process.leftovers(job_id, first)
    stage(SUCCEEDS)
    job_id, second = start(job)
    assert process.leftovers(job_id, first) == []
    tick_until(is_in(job_id, "succeeded"))
    assert set(steps(job_id).values()) == {second}


def test_stale_runs_are_killed_and_others_left_alone(db, owner, stage):
    stage("status('running'); hang()")
    stale, fence = start(stand_in.make_job(db, *owner))
    good, good_fence = start(stand_in.make_job(db, *owner))
    with transaction() as session:
        jobs.end(session, stale, fence, outcome="died")
    node.kill_stale(settings.node)
    assert process.leftovers(stale, fence) == []
    assert process.leftovers(good, good_fence)
    for job_id in (good, stale):
        service.cancel(db, owner[0].id, job_id)
    db.commit()
    tick_until(is_in(good, "cancelled"))


# -- asked to stop -----------------------------------------------------------------------


def test_cancel_is_quick_even_if_the_trainer_does_not_listen(db, owner, stage, monkeypatch):
    monkeypatch.setattr(runs, "CANCEL_GRACE", 0.5)
    stage("signal.signal(signal.SIGTERM, signal.SIG_IGN); status('running'); hang()")
    job_id, fence = start(stand_in.make_job(db, *owner))
    tick_until(has_status(job_id, fence, state="running"))
    service.cancel(db, owner[0].id, job_id)
    db.commit()
    began = time.monotonic()
    tick_until(is_in(job_id, "cancelled"))
    assert time.monotonic() - began < 15
    assert process.leftovers(job_id, fence) == []
    assert held(job_id) == 0


def test_a_success_that_comes_after_cancel_is_not_kept(db, owner, stage):
    stage(
        "signal.signal(signal.SIGTERM, lambda *_: (succeed(), sys.exit(0))); status('running')\nhang()"
    )
    job_id, fence = start(stand_in.make_job(db, *owner))
    tick_until(has_status(job_id, fence, state="running"))
    service.cancel(db, owner[0].id, job_id)
    db.commit()
    tick_until(is_in(job_id, "cancelled"))
    with pytest.raises(FileNotFoundError):
        storage.fetch(f"models/{job_id}-{fence}")


def test_pause_and_resume(db, owner, stage):
    stage(TRAINS)
    job = stand_in.make_job(db, *owner)
    job_id, _ = start(job)
    tick_until(lambda: look(job_id).step >= 5)
    service.pause(db, owner[0].id, job_id)
    db.commit()
    tick_until(is_in(job_id, "paused"))
    assert held(job_id) == 0
    paused_at = max(steps(job_id))
    service.resume(db, owner[0].id, job_id)
    db.commit()
    start(job)
    tick_until(is_in(job_id, "succeeded"))
    assert text_of(job_id) == f"from 0\nfrom {paused_at}\n"
    assert sorted(steps(job_id)) == list(range(1, 61))
    assert look(job_id).retries == 0


def test_cancel_before_the_nudge_arrived(db, owner, stage):
    stage("hang()")
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    service.cancel(db, owner[0].id, job.id)
    db.commit()
    assert look(job.id).state == "cancelling"
    tick_until(is_in(job.id, "cancelled"))
    starting.start_run(job.id, 1)
    assert process.attempts() == {}
    assert held(job.id) == 0


def test_cancel_while_it_is_being_started(db, owner, stage, monkeypatch):
    """The node must not give up an attempt whose starter is still at work."""
    stage("status('running'); hang()")
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    fetching, go_on, fetch = threading.Event(), threading.Event(), storage.fetch

    def slow(artefact):
        fetching.set()
        go_on.wait(20)
        return fetch(artefact)

    monkeypatch.setattr(storage, "fetch", slow)
    starter = threading.Thread(target=starting.start_run, args=(job.id, 1))
    starter.start()
    fetching.wait(20)
    service.cancel(db, owner[0].id, job.id)
    db.commit()
    runs.tick(settings.node)
    assert look(job.id).state == "cancelling"
    go_on.set()
    starter.join()
    tick_until(is_in(job.id, "cancelled"))


# -- taking the node down and coming back ------------------------------------------------


def test_a_restarted_node_adopts(db, owner, stage):
    stage(TRAINS)
    job_id, fence = start(stand_in.make_job(db, *owner))
    tick_until(lambda: look(job_id).step >= 5)
    runs.known.clear()  # all that a node process remembers
    tick_until(is_in(job_id, "succeeded"))
    assert steps(job_id) == dict.fromkeys(range(1, 61), fence)
    assert text_of(job_id) == "from 0\n"


def test_drain_leaves_a_checkpoint_and_the_job_goes_on_later(db, owner, stage):
    stage(TRAINS)
    job = stand_in.make_job(db, *owner)
    waiting = stand_in.make_job(db, *owner)
    job_id, fence = start(job)
    assert look(waiting.id).state == "scheduled"  # its nudge has not arrived yet
    tick_until(lambda: look(job_id).step >= 5)
    starting.draining().touch()
    runs.drain(settings.node)
    assert process.attempts() == {}
    drained = look(job_id)
    assert (drained.state, drained.reason, drained.retries) == ("queued", "drained", 0)
    assert held(job_id) == 0
    assert look(waiting.id).state == "queued"
    sweep.sweep()
    starting.start_run(job_id, fence + 1)
    assert process.attempts() == {}, "nothing starts on a node that is being taken down"
    starting.draining().unlink()
    starting.start_run(job_id, fence + 1)
    tick_until(is_in(job_id, "succeeded"))
    assert sorted(steps(job_id)) == list(range(1, 61))
    service.cancel(db, owner[0].id, waiting.id)
    db.commit()
    tick_until(is_in(waiting.id, "cancelled"))


def test_a_run_that_ended_while_the_node_was_away(db, owner, stage):
    stage(SUCCEEDS)
    job_id, fence = start(stand_in.make_job(db, *owner))
    deadline = time.monotonic() + 20
    while process.leftovers(job_id, fence):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tick_until(is_in(job_id, "succeeded"))
    assert len(steps(job_id)) == 10


def test_a_home_that_was_wiped_loses_the_attempt_not_the_job(db, owner, stage):
    stage("status('running'); hang()")
    job_id, fence = start(stand_in.make_job(db, *owner))
    tick_until(has_status(job_id, fence, state="running"))
    process.stop_attempt(job_id, fence, 0)
    shutil.rmtree(settings.runs)
    tick_until(is_in(job_id, "queued"))
    service.cancel(db, owner[0].id, job_id)
    db.commit()


def test_one_troubled_run_does_not_stop_the_others(db, owner, stage, monkeypatch):
    stage(SUCCEEDS)
    first, _ = start(stand_in.make_job(db, *owner))
    second, _ = start(stand_in.make_job(db, *owner))
    troubled = min(first, second)  # the one that is looked at first
    ship = outbox.Outbox.ship

    def broken(self, *, final=False):
        if self.job_id == troubled:
            raise RuntimeError("no")
        return ship(self, final=final)

    monkeypatch.setattr(outbox.Outbox, "ship", broken)
    monkeypatch.setattr(runs, "TROUBLE_PAUSE", 0.5)
    tick_until(is_in(max(first, second), "succeeded"))
    assert look(troubled).state == "running"
    monkeypatch.setattr(outbox.Outbox, "ship", ship)
    tick_until(is_in(troubled, "succeeded"))


# -- the sweep ---------------------------------------------------------------------------


def test_sweeps_at_once_grant_once(db, owner):
    made = [stand_in.make_job(db, *owner) for _ in range(4)]
    sweeps = [threading.Thread(target=sweep.sweep) for _ in range(6)]
    for one in sweeps:
        one.start()
    for one in sweeps:
        one.join()
    states = sorted(look(job.id).state for job in made)
    assert states == ["queued", "queued", "scheduled", "scheduled"]
    with transaction() as session:
        assert len(session.scalars(select(Lease).where(Lease.released_at.is_(None))).all()) == 2
    assert {look(job.id).fence for job in made} == {0, 1}


def test_a_step_of_the_sweep_that_fails_does_not_stop_the_others(db, owner, monkeypatch):
    def broken(session):
        raise RuntimeError("no")

    monkeypatch.setattr(sweep.wanted, "reconcile", broken)
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    assert look(job.id).state == "scheduled"


def test_jobs_of_a_dead_node_go_on_elsewhere(db, owner, stage, monkeypatch):
    stage("hang()")
    job = stand_in.make_job(db, *owner)
    job_id, fence = start(job)
    monkeypatch.setattr(cluster, "bury", bury_at_once)
    sweep.run(sweep.bury)
    assert look(job_id).state == "queued"
    assert held(job_id) == 0
    node.kill_stale(settings.node)
    assert process.leftovers(job_id, fence) == []


def bury_at_once(db):
    """As if the database had been up for long enough."""
    found = db.get_one(cluster.Node, settings.node)
    found.dead_at = now()
    return [found.id]
