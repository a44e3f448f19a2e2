"""The node process itself, started as `danlu up` starts it."""

import json
import os
import signal
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select, text

from app.cluster.tables import Device, Node
from app.config import settings
from app.db import engine
from app.jobs.tables import JobMetric
from app.queue import transaction
from tests import factories
from tests.workers import nvml, stand_in
from tests.workers.servers import NODE, kill, running, wait_for
from tests.workers.stand_in import SUCCEEDS, TRAINS, is_in, look
from workers import inventory, process, starting, sweep


@pytest.fixture
def owner(db):
    user = factories.make_user(db)
    workspace = factories.make_workspace(db, owner=user)
    db.commit()
    return workspace, user


@pytest.fixture
def log(tmp_path):
    return tmp_path / "node.log"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    def use(code):
        python = stand_in.install(tmp_path, code)
        monkeypatch.setattr(settings, "train_python", python)
        monkeypatch.setenv("DANLU_TRAIN_PYTHON", str(python))

    use(SUCCEEDS)
    yield use
    left = process.attempts()
    for run in left:
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), 0)
    assert not left


def found_node():
    with transaction() as db:
        return db.get(Node, settings.node)


def devices():
    with transaction() as db:
        return list(db.scalars(select(Device).order_by(Device.name)))


def start(db, owner, log):
    """A running job, once the node is there to run it."""
    wait_for(devices, log)
    job = stand_in.make_job(db, *owner)
    sweep.sweep()
    starting.start_run(job.id, 1)
    return job.id


def said_twice(log):
    """The parts of the node that said again that they fail, without having worked in between."""
    failing, again = set(), []
    for line in map(json.loads, log.read_text().splitlines()):
        match line["event"]:
            case "does not work; trying again":
                again += [line["what"]] if line["what"] in failing else []
                failing.add(line["what"])
            case "works again":
                failing.remove(line["what"])
    return again


def steps(job_id):
    with transaction() as db:
        return sorted(db.scalars(select(JobMetric.step).where(JobMetric.job_id == job_id)))


def test_says_what_it_has_and_that_it_lives(db, stage, log):
    with running(NODE, log, DANLU_CPU_DEVICES="3", DANLU_NODE_HOST="10.0.0.7"):
        wait_for(lambda: found_node() and found_node().facts["engines"], log)
        node = found_node()
        assert node.host == "10.0.0.7"
        assert node.facts["cores"] == len(os.sched_getaffinity(0))
        assert node.facts["engines"]["vllm"]["available"] is False
        assert "/none" in node.facts["engines"]["vllm"]["reason"]
        if not Path("/proc/driver/nvidia").exists():
            assert [device.name for device in devices()] == ["cpu:0", "cpu:1", "cpu:2"]
            assert devices()[0].memory == inventory.total_memory() // 3
        wait_for(lambda: found_node().seen_at > node.seen_at, log)


def test_leaves_runs_alone_on_sigterm_and_adopts_them(db, owner, stage, log):
    stage(TRAINS)
    with running(NODE, log) as node:
        job_id = start(db, owner, log)
        wait_for(lambda: look(job_id).step > 3, log)
        node.terminate()
        assert node.wait(10) == 0
    assert process.leftovers(job_id, 1)
    assert look(job_id).state == "running"
    with running(NODE, log) as node:
        wait_for(lambda: look(job_id).step > 20, log)
        kill(node)
    with running(NODE, log):
        wait_for(is_in(job_id, "succeeded"), log)
    assert steps(job_id) == list(range(1, 61))
    assert look(job_id).fence == 1


@pytest.mark.parametrize("way", ["SIGUSR1", "--drain-on-term"])
def test_drains_when_asked(db, owner, stage, log, way):
    stage(TRAINS)
    command = NODE if way == "SIGUSR1" else f"{NODE} --drain-on-term"
    with running(command, log) as node:
        job_id = start(db, owner, log)
        wait_for(lambda: look(job_id).step > 3, log)
        node.send_signal(signal.SIGUSR1 if way == "SIGUSR1" else signal.SIGTERM)
        assert node.wait(30) == 0
    assert process.attempts() == {}
    assert (look(job_id).state, look(job_id).reason) == ("queued", "drained")
    assert not any(device.healthy for device in devices())
    sweep.sweep()
    assert look(job_id).state == "queued", "a node that is down gets nothing"
    with running(NODE, log):
        wait_for(lambda: all(device.healthy for device in devices()), log)
        sweep.sweep()
        starting.start_run(job_id, 2)
        wait_for(is_in(job_id, "succeeded"), log)
    assert steps(job_id) == list(range(1, 61))


def test_is_emptied_and_used_again(db, client, owner, stage, log):
    stage(TRAINS)
    client.user.is_platform_admin = True
    db.commit()
    node = f"/api/v1/nodes/{settings.node}"
    with running(NODE, log):
        job_id = start(db, owner, log)
        wait_for(lambda: look(job_id).step > 3, log)
        assert client.post(f"{node}/drain").json()["state"] == "draining"
        sweep.sweep()
        assert (look(job_id).state, look(job_id).reason) == ("pausing", "drained")
        sweep.sweep()
        wait_for(is_in(job_id, "queued"), log)
        assert look(job_id).reason == "drained"
        assert process.attempts() == {}
        told = client.get(node).json()
        assert (told["state"], told["cordoned"]) == ("drained", True)
        page = BeautifulSoup(client.get(f"/admin/nodes/{settings.node}").text, "lxml")
        assert "Nothing of Danlu runs" in page.select_one("[data-testid=drain-progress]").text
        sweep.sweep()
        assert look(job_id).state == "queued", "it is given nothing"
        assert client.post(f"{node}/uncordon").json()["state"] == "ready"
        sweep.sweep()
        starting.start_run(job_id, 2)
        wait_for(is_in(job_id, "succeeded"), log)
    assert steps(job_id) == list(range(1, 61)), "it went on from its checkpoint"


def test_kills_what_was_given_to_others_while_it_was_away(db, owner, stage, log):
    stage("status('running'); hang()")
    with running(NODE, log) as node:
        job_id = start(db, owner, log)
        wait_for(is_in(job_id, "running"), log)
        kill(node)
    with transaction() as session:
        job = session.get_one(type(look(job_id)), job_id)
        job.state, job.fence, job.node_id, job.pid = "queued", 2, None, None
    with running(NODE, log):
        wait_for(lambda: not process.attempts(), log)


def test_waits_for_the_database_and_outlives_it(db, owner, stage, log, tmp_path):
    """The database is reached through a link that comes and goes."""
    url = engine().url
    real = Path(str(url.query.get("host", "")))
    if not (real / ".s.PGSQL.5432").exists():
        pytest.skip("needs the database on a unix socket")
    link = tmp_path / ".s.PGSQL.5432"
    away = url.update_query_dict({"host": str(tmp_path), "application_name": "through-link"})
    stage(TRAINS)
    env = {"DATABASE_URL": away.render_as_string(hide_password=False)}
    with running(NODE, log, **env) as node:
        wait_for(lambda: "does not work" in log.read_text(), log)
        assert node.poll() is None
        link.symlink_to(real / ".s.PGSQL.5432")
        job_id = start(db, owner, log)
        wait_for(lambda: look(job_id).step > 3, log)
        link.unlink()
        with transaction() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'through-link'"
                )
            )
        wait_for(stand_in.has_status(job_id, 1, state="succeeded"), log)
        assert node.poll() is None
        assert look(job_id).state == "running"
        link.symlink_to(real / ".s.PGSQL.5432")
        wait_for(is_in(job_id, "succeeded"), log)
    assert steps(job_id) == list(range(1, 61))
    assert not said_twice(log)


def test_two_processes_of_one_node_take_turns(db, stage, log):
    with running(NODE, log) as first:
        wait_for(devices, log)
        with running(NODE, log) as second:
            first.send_signal(signal.SIGSTOP)
            seen = found_node().seen_at
            try:
                assert second.poll() is None
                assert found_node().seen_at == seen
            finally:
                first.send_signal(signal.SIGCONT)
            kill(first)
            wait_for(lambda: found_node().seen_at > seen, log)


def test_eight_gpus_from_the_driver_to_the_page(db, client, stage, log, tmp_path):
    """The node process itself, with the stand-in in the place of NVIDIA's library."""
    cards = nvml.Cards(tmp_path / "readings")
    for number in range(8):
        cards.set(number, use=10 * number, temperature=40 + number)
    client.user.is_platform_admin = True
    db.commit()
    with running(NODE, log, **cards.environment, DANLU_NODE_LABELS="gpu=h200, room=b"):
        wait_for(devices, log)
        assert [device.name for device in devices()] == [f"cuda:{number}" for number in range(8)]
        page = BeautifulSoup(client.get("/admin/devices").text, "lxml")
        shown = page.select("[data-testid=device]")
        assert [one["aria-label"] for one in shown] == [f"cuda:{number}" for number in range(8)]
        for words in ("NVIDIA H200", "70 %", "47 °C", "76 / 700 W", "0.6 / 140.4 GiB"):
            assert words in " ".join(shown[7].text.split())
        assert "580.95.05 · CUDA 13.0" in page.select_one("[data-testid=node]").text
        assert [one.text for one in page.select("[data-testid=label]")] == ["gpu=h200", "room=b"]
        cards.set(3, error=15)
        wait_for(lambda: not devices()[3].healthy, log)
        page = BeautifulSoup(client.get("/admin/devices").text, "lxml")
        (problem,) = page.select("[data-testid=problem]")
        assert "GPU is lost" in problem.text
        assert page.select_one("[data-count=unhealthy]").text == "1"
        history = client.get(f"/api/v1/nodes/{settings.node}/history").json()
        assert list(history["devices"]) == [f"cuda:{number}" for number in range(8)]
        assert 70 in history["devices"]["cuda:7"]["use"]
        assert any(history["devices"]["cuda:0"]["power"])


def test_an_engine_is_asked_once_until_its_environment_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "home", tmp_path)
    site = tmp_path / "env/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    python = tmp_path / "env/bin/python"
    python.parent.mkdir()
    asked = tmp_path / "asked"

    def environment(line):
        python.write_text(f"#!/bin/sh\necho x >> {asked}\n{line}\n")
        python.chmod(0o755)

    environment("echo 'ImportError: no vllm._C' >&2; exit 1")
    monkeypatch.setattr(settings, "serve_python", python)
    broken = inventory.engine("vllm")
    assert broken == {"available": False, "version": "", "reason": "ImportError: no vllm._C"}
    assert inventory.engine("vllm") == broken
    assert asked.read_text() == "x\n"
    environment("echo noise; echo version 0.32.0")
    (site / "vllm").mkdir()
    assert inventory.engine("vllm") == {"available": True, "version": "0.32.0", "reason": ""}
