"""Nudges through a real Celery worker and a real broker: early, late, doubled, lost."""

import pytest
from sqlalchemy import select

from app.config import settings
from app.jobs import service
from app.jobs.tables import JobMetric
from app.queue import celery, node_queue, redis, send, transaction
from tests import factories
from tests.workers import stand_in
from tests.workers.servers import BEAT, WORKER, kill, running, wait_for
from tests.workers.stand_in import SUCCEEDS, is_in, look, tick_until
from workers import process, runs


@pytest.fixture
def owner(db):
    user = factories.make_user(db)
    workspace = factories.make_workspace(db, owner=user)
    factories.make_node(db, id=settings.node, devices=2)
    db.commit()
    return workspace, user


@pytest.fixture
def log(tmp_path):
    return tmp_path / "celery.log"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    def use(code):
        python = stand_in.install(tmp_path, code)
        monkeypatch.setenv("DANLU_TRAIN_PYTHON", str(python))

    runs.known.clear()
    yield use
    for run in process.attempts():
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), 0)


def nudge_sweep():
    with transaction() as db:
        send(db, "workers.sweep")


def test_a_nudge_starts_a_run(db, owner, stage, log):
    stage(SUCCEEDS)
    job = stand_in.make_job(db, *owner)
    with running(WORKER, log):
        nudge_sweep()
        wait_for(is_in(job.id, "running"), log)
        tick_until(is_in(job.id, "succeeded"))


def test_messages_doubled_stale_and_broken(db, owner, stage, log):
    stage("status('running'); hang()")
    job = stand_in.make_job(db, *owner)
    queue = node_queue(settings.node)
    with running(WORKER, log):
        for _ in range(3):
            nudge_sweep()
        for arguments in [(job.id, 1)] * 5 + [(job.id, 7), ("job_none", 1), (), ("x", "y", "z")]:
            celery.send_task("workers.start_run", args=arguments, queue=queue)
        wait_for(is_in(job.id, "running"), log)
        wait_for(lambda: redis().llen(queue) == 0, log)
        assert len(process.leftovers(job.id, 1)) == 1
        assert list(process.attempts()) == [f"{job.id}-1"]
        service.cancel(db, owner[0].id, job.id)
        db.commit()
        tick_until(is_in(job.id, "cancelled"))


def test_what_the_broker_lost_is_made_up_for(db, owner, stage, log):
    stage(SUCCEEDS)
    job = stand_in.make_job(db, *owner)
    nudge_sweep()
    redis().flushall()
    with running(WORKER, log), running(BEAT, log):
        wait_for(is_in(job.id, "running"), log)
        tick_until(is_in(job.id, "succeeded"))


def test_a_run_outlives_the_worker_that_started_it(db, owner, stage, log):
    stage(stand_in.TRAINS)
    job = stand_in.make_job(db, *owner)
    with running(WORKER, log) as worker:
        nudge_sweep()
        wait_for(is_in(job.id, "running"), log)
        kill(worker)
    with running(WORKER, log):
        nudge_sweep()
        tick_until(is_in(job.id, "succeeded"))
    with transaction() as session:
        rows = session.scalars(select(JobMetric).where(JobMetric.job_id == job.id)).all()
    assert sorted(row.step for row in rows) == list(range(1, 61))
    assert look(job.id).fence == 1
