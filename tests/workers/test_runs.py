"""Runs from nudge to end: real processes, a stage written by the test, the real database."""

import dataclasses
import json
import signal

import pytest
from sqlalchemy import select

from app import storage
from app.cluster import service as cluster
from app.cluster.tables import Device
from app.config import settings
from app.jobs import runs as jobs
from app.jobs import service
from app.jobs.tables import Job, JobEvent, JobLog, JobMetric
from app.models.tables import Model
from app.queue import transaction
from app.quotas.tables import Usage
from tests import factories
from tests.workers import stand_in
from tests.workers.stand_in import SUCCEEDS, TRAINS, is_in, look, start, tick_until
from workers import process, runs, starting, sweep
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


EXPORTS = """
(RUN / "export").mkdir()
(RUN / "export/model.gguf").write_bytes(b"GGUF")
(RUN / "result.json").write_text(json.dumps({"kind": "export", "bytes": 4}))
assert sys.argv[2] == "workers.stages.export" and SPEC["format"] == "f16", SPEC
status("succeeded", step=1, total=1)
"""


def test_an_export_leaves_files_and_no_model(db, owner, stage):
    stage(EXPORTS)
    made = stand_in.make_job(db, *owner, stage="export", method="", spec={"format": "f16"})
    job_id, fence = start(made)
    tick_until(is_in(job_id, "succeeded"))
    assert look(job_id).result_model_id is None
    assert (storage.fetch(f"exports/{job_id}-{fence}") / "model.gguf").read_bytes() == b"GGUF"
    assert "Exported: %(bytes)s bytes." in messages(job_id)


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


def test_a_model_that_fits_no_device_is_shared_out(db, owner, tmp_path):
    job = stand_in.make_job(db, *owner)
    with transaction() as session:
        sweep.decide(session)
        facts = jobs.start_facts(session, job.id, 1)
        memory = session.scalar(select(Device.memory).where(Device.name == facts.devices[0]))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(memory // 10 - 1)
    full = dataclasses.replace(facts, method="full")
    assert starting.strategy(full, tmp_path) == "ddp"
    with (tmp_path / "more.safetensors").open("wb") as file:
        file.truncate(2)
    assert starting.strategy(full, tmp_path) == "fsdp"
    assert starting.strategy(facts, tmp_path) == "ddp"  # adapters are small
    service.cancel(db, owner[0].id, job.id)
    db.commit()
    tick_until(is_in(job.id, "cancelled"))


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
            'status("running", step=at, total=60)\n    if at == 40: checkpoint(40)'
            '\n    if at == 50 and not SPEC["resume_from"]: time.sleep(60)',  # until it is killed
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
