"""Reporting a run elsewhere: beside the trainer, with an account that stands nowhere."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from app.accounts import user_secrets
from app.db import engine
from app.jobs.spec import RunSpec
from tests import factories as make
from workers import reporters
from workers.launch import started

TOKEN = "0123456789abcdef0123456789abcdef01234567"
FAKE = """
import json, os
class Settings(dict):
    def __init__(self, **more): super().__init__(more)
class Run:
    def log(self, numbers, step): write({"step": step, "numbers": numbers})
    def finish(self, exit_code): write({"exit": exit_code})
def write(line):
    with open(os.environ["WANDB_TOLD"], "a") as file: file.write(json.dumps(line) + "\\n")
def init(**asked):
    write({"known": asked["settings"]["api_key"][-4:], "id": asked["id"], "env": os.environ.get("WANDB_API_KEY")})
    return Run()
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A training environment that has wandb, of a kind."""
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    (tmp_path / "site" / "wandb" / "__init__.py").write_text(FAKE)
    monkeypatch.setattr("app.config.settings.train_python", Path(sys.executable))
    whole = reporters.environment
    paths = {"PYTHONPATH": str(tmp_path / "site"), "WANDB_TOLD": str(tmp_path / "told")}
    monkeypatch.setattr(reporters, "environment", lambda job: whole(job) | paths)
    monkeypatch.setattr(reporters, "PAUSE", 0.0)
    yield tmp_path
    for one in reporters.beside.values():
        if one.child and one.child.poll() is None:
            one.child.kill()
            one.child.wait()
    reporters.beside.clear()


def told(site):
    path = site / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def running(db, site):
    """A job whose trainer is this very process; its directory, and who started it."""
    user = make.make_user(db)
    workspace = make.make_workspace(db, owner=user)
    job = make.make_job(db, workspace, user, report_to=["wandb", "swanlab"], state="running")
    directory = site / "run"
    directory.mkdir()
    spec = RunSpec(job_id=job.id, fence=0, stage="sft", method="lora", base="/x", train=["/x"],
                   report_to=job.report_to, hyperparameters={}, cache="/x")  # fmt: skip
    (directory / "spec.json").write_text(spec.model_dump_json())
    (directory / "pid").write_text(json.dumps([os.getpid(), started("self")]))
    (directory / "status.json").write_text(json.dumps({"state": "running"}))
    who = make.make_principal(user, workspace)
    db.commit()
    return job, directory, who


def measure(directory, *steps):
    with (directory / "metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "loss": 1.0 / step, "t": 1}) + "\n")


def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def seen_of(pid):
    """What anybody on the machine could see of a process."""
    place = Path(f"/proc/{pid}")
    return (place / "cmdline").read_bytes() + (place / "environ").read_bytes()


def test_a_token_is_used_and_stands_nowhere(db, running, site):
    job, directory, who = running
    user_secrets.create(db, who, kind="wandb", name="", value=TOKEN)
    db.commit()
    measure(directory, 1, 2)
    reporters.look(job, directory)
    child = reporters.beside[directory].child
    until(lambda: len(told(site)) == 3)
    reporters.look(job, directory)
    assert reporters.beside[directory].starts == 1
    assert told(site)[0] == {"known": TOKEN[-4:], "id": job.id, "env": None}
    assert told(site)[2] == {"step": 2, "numbers": {"loss": 0.5}}
    assert TOKEN.encode() not in seen_of(child.pid)
    measure(directory, 3)
    (directory / "status.json").write_text(json.dumps({"state": "succeeded"}))
    assert child.wait(60) == 0
    assert told(site)[-2:] == [{"step": 3, "numbers": {"loss": 1 / 3}}, {"exit": 0}]
    reporters.look(job, directory)
    assert reporters.beside[directory].starts == 1
    files = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert TOKEN.encode() not in files
    with engine().connect() as connection:
        tables = connection.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ).all()
        for name in tables:
            rows = connection.scalars(text(f'SELECT t::text FROM "{name}" t')).all()
            assert TOKEN not in "".join(rows), name


def test_a_service_that_is_not_there_costs_a_line_and_no_step(db, running, site):
    job, directory, who = running
    user_secrets.create(db, who, kind="swanlab", name="", value=TOKEN)
    user_secrets.create(db, who, kind="wandb", name="", value=TOKEN)
    db.commit()
    measure(directory, 1)
    reporters.look(job, directory)
    until(lambda: len(told(site)) == 2)
    (said,) = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    assert said["params"]["name"] == "swanlab"
    assert "ModuleNotFoundError" in said["params"]["reason"]


def test_who_comes_after_goes_on_where_the_first_was(db, running, site):
    job, directory, who = running
    user_secrets.create(db, who, kind="wandb", name="", value=TOKEN)
    db.commit()
    measure(directory, 1)
    reporters.look(job, directory)
    until(lambda: len(told(site)) == 2)
    first = reporters.beside[directory].child
    second = reporters.start(job, directory)
    assert second.wait(60) == 0  # the first is still at it
    until((directory / "reports.json").exists)
    first.kill()
    first.wait()
    measure(directory, 2)
    reporters.look(job, directory)
    until(lambda: any(line.get("step") == 2 for line in told(site)))
    assert sum(line.get("step") == 1 for line in told(site)) == 1


def test_the_own_token_comes_before_the_workspaces_and_the_nodes(db, running, monkeypatch):
    job, _, who = running
    monkeypatch.setenv("WANDB_API_KEY", "the-nodes-own")
    monkeypatch.setenv("WANDB_PROJECT", "furnace")
    assert reporters.accounts(job)["wandb"] == {"WANDB_API_KEY": "the-nodes-own"}
    public = reporters.environment(job)
    assert public["WANDB_PROJECT"] == "furnace"
    assert "WANDB_API_KEY" not in public
    assert "DANLU_RUN" not in public
    for value, shared in (("the-workspaces", True), ("the-users-own", False)):
        user_secrets.create(db, who, kind="wandb", name="", value=value, shared=shared)
        db.commit()
        assert reporters.accounts(job)["wandb"] == {"WANDB_API_KEY": value}
