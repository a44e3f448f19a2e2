"""Runs from nudge to end: real processes, a stage written by the test, the real database."""

import json
import shutil
import signal
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import select

from app import storage
from app.cluster import service as cluster
from app.cluster.tables import Lease
from app.config import settings
from app.db import now
from app.jobs import runs as jobs
from app.jobs import service
from app.jobs.tables import Job, JobEvent, JobLog, JobMetric
from app.models.tables import Model
from app.queue import transaction
from app.quotas.tables import Usage
from tests import factories
from tests.workers import stand_in
from tests.workers.stand_in import SUCCEEDS, TRAINS, has_status, is_in, look, start, tick_until
from workers import node, outbox, process, runs, starting, sweep
from workers.starting import directory_of


@pytest.fixture
def owner(db):
    user = factories.make_user(db)
    workspace = factories.make_workspace(db, owner=user)
    factories.make_node(db, id=settings.node, devices=2)
    db.commit()
    return workspace, user


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Install the code of a stage."""

    def use(code):
        monkeypatch.setattr(settings, "train_python", stand_in.install(tmp_path, code))

    return use


@pytest.fixture(autouse=True)
def nothing_is_left(database):
    runs.known.clear()
    yield
    left = process.attempts()
    for run in left:
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), 0)
    starting.draining().unlink(missing_ok=True)
    assert not left


def steps(job_id):
    with transaction() as db:
        rows = db.scalars(select(JobMetric).where(JobMetric.job_id == job_id))
        return {row.step: row.fence for row in rows}


def text_of(job_id):
    with transaction() as db:
        rows = db.scalars(
            select(JobLog).where(JobLog.job_id == job_id).order_by(JobLog.fence, JobLog.offset)
        )
        return b"".join(row.data for row in rows).decode()


def held(job_id):
    with transaction() as db:
        return len(cluster.leases_of(db, "job", job_id))


def messages(job_id):
    with transaction() as db:
        rows = db.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id))
        return [row.message for row in rows]


# -- the good way ------------------------------------------------------------------------


def test_a_run_that_succeeds(db, owner, stage):
    stage(SUCCEEDS)
    job_id, fence = start(stand_in.make_job(db, *owner))
    assert look(job_id).state == "running"
    tick_until(is_in(job_id, "succeeded"))
    job = look(job_id)
    assert text_of(job_id) == "hello from the stage 丹炉\n"
    assert steps(job_id) == dict.fromkeys(range(1, 11), fence)
    assert "Saved." in messages(job_id)
    assert (job.pid, held(job_id)) == (None, 0)
    with transaction() as session:
        model = session.get_one(Model, job.result_model_id)
        assert (model.kind, model.artefact) == ("adapter", f"models/{job_id}-{fence}")
        assert model.lineage["libraries"] == {"torch": "2.13.0"}
        assert session.scalar(select(Usage.device_ms)) > 0
    assert (storage.fetch(model.artefact) / "adapter_model.safetensors").exists()


def test_the_run_is_told_all_it_needs(db, owner, stage):
    stage('print(dict(os.environ), flush=True); status("running"); succeed()')
    job_id, fence = start(stand_in.make_job(db, *owner, spec={"epochs": 2.0}))
    spec = json.loads((directory_of(job_id, fence) / "spec.json").read_text())
    assert spec["job_id"] == job_id
    assert spec["hyperparameters"]["epochs"] == 2.0
    assert spec["base"] == str(storage.fetch("models/stand-in"))
    assert spec["train"] == [str(storage.fetch("segments/" + "0" * 64))]
    assert (spec["device"], spec["resume_from"]) == ("cpu", None)
    assert spec["threads"] >= 1
    tick_until(is_in(job_id, "succeeded"))
    text = text_of(job_id)
    assert f"'DANLU_RUN': '{job_id}-{fence}'" in text
    assert "DATABASE_URL" not in text
    assert "REDIS_URL" not in text


def test_cores_are_divided_among_the_devices_held(db, owner, stage, monkeypatch):
    monkeypatch.setattr(starting.os, "sched_getaffinity", lambda _: set(range(8)))
    stage("hang()")
    first, first_fence = start(stand_in.make_job(db, *owner))
    second, second_fence = start(stand_in.make_job(db, *owner))
    threads = [
        json.loads((directory_of(*run) / "spec.json").read_text())["threads"]
        for run in ((first, first_fence), (second, second_fence))
    ]
    assert threads == [8, 4]
    for job_id in (first, second):
        service.cancel(db, owner[0].id, job_id)
    db.commit()
    tick_until(lambda: not stand_in.active())


# -- the bad ways ------------------------------------------------------------------------


def test_a_run_that_fails_says_why(db, owner, stage):
    stage(
        """
print("about to fail", flush=True)
error = {"code": "nan", "message": "The loss is %(what)s.", "params": {"what": "NaN"}}
status("failed", step=3, error=error)
sys.exit(1)
"""
    )
    job_id, _ = start(stand_in.make_job(db, *owner))
    tick_until(is_in(job_id, "failed"))
    assert look(job_id).error["code"] == "nan"
    assert text_of(job_id) == "about to fail\n"
    assert held(job_id) == 0


def test_an_exit_without_a_word_is_tried_three_times_more(db, owner, stage):
    stage("print('boom', flush=True); sys.exit(1)")
    job = stand_in.make_job(db, *owner)
    for attempt in range(1, 5):
        job_id, fence = start(job)
        assert fence == attempt
        tick_until(is_in(job_id, "queued", "failed"))
    failed = look(job.id)
    assert (failed.state, failed.retries, failed.error["code"]) == ("failed", 3, "died")
    assert text_of(job.id) == "boom\n" * 4
    assert held(job.id) == 0


def test_a_killed_trainer_goes_on_from_its_checkpoint(db, owner, stage):
    stage(
        TRAINS.replace(
            'status("running", step=at, total=60)',
            'status("running", step=at, total=60)\n    if at == 40: checkpoint(40)',
        )
    )
    job = stand_in.make_job(db, *owner)
    job_id, first = start(job)
    tick_until(lambda: look(job_id).step >= 45)
    running = look(job_id)
    process.send(process.Process(running.pid, running.pid_started), signal.SIGKILL)
    tick_until(is_in(job_id, "queued"))
    start(job)
    tick_until(is_in(job_id, "succeeded"))
    assert text_of(job_id) == "from 0\nfrom 40\n"
    found = steps(job_id)
    assert sorted(found) == list(range(1, 61))  # each step once
    assert {step for step, fence in found.items() if fence == first} == set(range(1, 41))
    assert look(job_id).retries == 1


def test_a_checkpoint_that_is_not_complete_is_not_used(db, owner):
    job = stand_in.make_job(db, *owner)
    for fence, number, complete in ((1, 30, True), (1, 5, True), (2, 40, False), (3, 20, True)):
        directory = directory_of(job.id, fence) / "checkpoints" / f"checkpoint-{number}"
        directory.mkdir(parents=True)
        if complete:
            (directory / "complete").touch()
    with transaction() as session:
        sweep.decide(session)
        session.get_one(Job, job.id).fence = 4
        facts = jobs.start_facts(session, job.id, 4)
    assert starting.checkpoint(facts).endswith("-1/checkpoints/checkpoint-30")
    service.cancel(db, owner[0].id, job.id)
    db.commit()
    tick_until(is_in(job.id, "cancelled"))


def test_a_lost_artefact_fails_the_job(db, owner, stage):
    stage(SUCCEEDS)
    job = stand_in.make_job(db, *owner)
    storage.delete("models/stand-in")
    sweep.sweep()
    starting.start_run(job.id, 1)
    assert look(job.id).state == "failed"
    assert look(job.id).error["code"] == "artefact_missing"
    assert held(job.id) == 0


def test_a_missing_training_environment_fails_the_job(db, owner, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "train_python", tmp_path / "no-python")
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    starting.start_run(job.id, 1)
    assert look(job.id).error["code"] == "no_training_environment"


def test_a_store_that_is_away_is_waited_for(db, owner, stage, monkeypatch):
    stage(SUCCEEDS)
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    fetch = storage.fetch

    def away(artefact):
        raise ConnectionError("the store is away")

    monkeypatch.setattr(storage, "fetch", away)
    with pytest.raises(ConnectionError):
        starting.start_run(job.id, 1)
    assert look(job.id).state == "scheduled"
    monkeypatch.setattr(storage, "fetch", fetch)
    starting.start_run(job.id, 1)
    tick_until(is_in(job.id, "succeeded"))


def test_a_store_that_stays_away_fails_the_job(db, owner, stage, monkeypatch):
    stage(SUCCEEDS)
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    monkeypatch.setattr(starting, "STORE_PATIENCE", 0)

    def away(artefact):
        raise ConnectionError("the store is away")

    monkeypatch.setattr(storage, "fetch", away)
    starting.start_run(job.id, 1)
    assert look(job.id).error["code"] == "cannot_start"


def test_a_result_waits_for_the_store(db, owner, stage, monkeypatch):
    stage(SUCCEEDS)
    job_id, _ = start(stand_in.make_job(db, *owner))
    put, tries = storage.put, []

    def full(directory, artefact):
        tries.append(artefact)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")
        return put(directory, artefact)

    monkeypatch.setattr(storage, "put", full)
    monkeypatch.setattr(runs, "STORE_PAUSE", 0.2)
    tick_until(is_in(job_id, "succeeded"))
    assert len(tries) == 3


def test_a_result_that_lies_fails_the_job(db, owner, stage):
    stage(
        """
adapter()
(RUN / "adapter" / "evil.py").write_text("import os")
status("succeeded", step=1, total=1)
"""
    )
    job_id, _ = start(stand_in.make_job(db, *owner))
    tick_until(is_in(job_id, "failed"))
    assert look(job_id).result_model_id is None


def test_success_without_a_result_is_none(db, owner, stage):
    stage('status("succeeded", step=1, total=1)')
    job_id, _ = start(stand_in.make_job(db, *owner))
    tick_until(is_in(job_id, "failed"))


def test_children_of_a_run_that_is_over_are_ended_first(db, owner, stage):
    stage(
        """
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code])
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
time.sleep(0.5)
"""
        + SUCCEEDS
    )
    job_id, fence = start(stand_in.make_job(db, *owner))
    tick_until(is_in(job_id, "succeeded"))
    assert process.leftovers(job_id, fence) == []


def test_a_flood_of_log_neither_holds_up_others_nor_gets_lost(db, owner, stage):
    stage(
        """
if SPEC["hyperparameters"]["seed"] == 1:
    line = "x" * 99 + "\\n"
    for _ in range(80_000):
        sys.stdout.write(line)
    sys.stdout.flush()
succeed()
"""
    )
    flood, _ = start(stand_in.make_job(db, *owner, spec={"seed": 1}))
    quiet, _ = start(stand_in.make_job(db, *owner, spec={"seed": 2}))
    tick_until(is_in(quiet, "succeeded"))
    tick_until(is_in(flood, "succeeded"), 60)
    assert len(text_of(flood)) == 8_000_000


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
    assert time.monotonic() - began < 5
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


def test_old_run_directories_go(db, owner):
    workspace, user = owner
    over = factories.make_job(
        db, workspace, user, state="succeeded", finished_at=now() - timedelta(days=2)
    )
    fresh = factories.make_job(db, workspace, user, state="failed", finished_at=now())
    paused = factories.make_job(db, workspace, user, state="paused")
    db.commit()
    for job in (over, fresh, paused):
        directory_of(job.id, 1).mkdir(parents=True)
    (settings.runs / "job_unknown-1").mkdir()
    runs.clear()
    left = {path.name for path in settings.runs.iterdir()}
    assert left == {f"{fresh.id}-1", f"{paused.id}-1", "job_unknown-1"}


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
