"""A stage that a test writes: a real process at the place of `.venv-train`'s interpreter.

`install` makes an executable that takes the arguments of the real one and runs the test's code
with what a stage has: RUN (its directory), SPEC, and functions to write what stages write.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import User, Workspace
from app.cluster import service as cluster
from app.config import settings
from app.jobs import runs as jobs
from app.jobs.tables import Job
from app.queue import transaction
from tests import factories
from workers import runs, starting, sweep

PRELUDE = """#!{python}
import json, os, signal, struct, subprocess, sys, time
from pathlib import Path

assert sys.argv[1] == "-m" and sys.argv[2].startswith("workers.stages."), sys.argv
RUN = Path(sys.argv[3])
SPEC = json.loads((RUN / "spec.json").read_text())

def line(name, **values):
    with (RUN / name).open("a") as file:
        file.write(json.dumps(values) + "\\n")

def step(number, loss=1.0):
    line("metrics.jsonl", step=number, epoch=0.1, loss=loss, lr=1e-4, grad_norm=1.0, tokens=10, t=1.0)

def event(message, kind="note", **params):
    line("events.jsonl", t=time.time(), kind=kind, message=message, params=params)

def status(state, step=0, total=10, error=None, phase="train"):
    partial = RUN / "status.partial"
    values = dict(state=state, phase=phase, step=step, total=total, error=error)
    partial.write_text(json.dumps(values))
    partial.rename(RUN / "status.json")

def checkpoint(number):
    directory = RUN / "checkpoints" / f"checkpoint-{{number}}"
    directory.mkdir(parents=True)
    (directory / "complete").touch()

def adapter():
    directory = RUN / "adapter"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({{"r": 4, "peft_type": "LORA"}}))
    header = json.dumps({{"a": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(4)
    (directory / "adapter_model.safetensors").write_bytes(data)
    result = {{"kind": "adapter", "libraries": {{"torch": "2.13.0"}}}}
    (RUN / "result.json").write_text(json.dumps(result))

def succeed(total=10):
    adapter()
    status("succeeded", step=total, total=total)

def hang():
    time.sleep(600)

"""

SUCCEEDS = """
print("hello from the stage 丹炉", flush=True)
status("running")
for number in range(1, 11):
    step(number)
event("Saved.", kind="checkpoint", step=10)
succeed()
"""
# Trains until told to stop, which it heeds between steps, then leaves a checkpoint; goes on from one.
TRAINS = """
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append("stop"))
at = int(SPEC["resume_from"].rpartition("-")[2]) if SPEC["resume_from"] else 0
print("from", at, flush=True)
while at < 60:
    at += 1
    step(at)
    status("running", step=at, total=60)
    time.sleep(0.04)
    if told:
        checkpoint(at)
        status("stopped", step=at, total=60)
        sys.exit(0)
succeed(60)
"""


def install(directory: Path, code: str) -> Path:
    """The interpreter that runs `code`, for `settings.train_python`."""
    path = directory / "stage-python"
    path.write_text(PRELUDE.format(python=sys.executable) + code)
    path.chmod(0o755)
    return path


def make_job(db: Session, workspace: Workspace, user: User, **overrides: object) -> Job:
    """A queued job whose inputs stand in the store, on a node that is this one."""
    for artefact in ("models/stand-in", "segments/" + "0" * 64):
        source = settings.home / "source"
        source.mkdir(exist_ok=True)
        (source / "config.json").write_text("{}")
        storage.put(source, artefact)
    model = factories.make_model(db, artefact="models/stand-in")
    job = factories.make_job(db, workspace, user, model_id=model.id, **overrides)
    cluster.ask(
        db, owner_kind="job", owner_id=job.id, workspace_id=workspace.id, devices=job.devices
    )
    db.commit()
    return job


def start(job: Job) -> tuple[str, int]:
    """Grant and start it, as the sweep and the Celery task do; its id and fence."""
    sweep.sweep()
    now = look(job.id)
    assert now.state == "scheduled", (now.state, now.error)
    starting.start_run(now.id, now.fence)
    return now.id, now.fence


def look(job_id: str) -> Job:
    with transaction() as db:
        return db.get_one(Job, job_id)


def tick_until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Be the node's loop until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, [
            (job.state, job.reason, job.step, job.error) for job in all_jobs()
        ]
        runs.tick(settings.node)
        time.sleep(0.05)


def all_jobs() -> list[Job]:
    with transaction() as db:
        return list(db.scalars(select(Job)))


def is_in(job_id: str, *states: str) -> Callable[[], bool]:
    return lambda: look(job_id).state in states


def has_status(job_id: str, fence: int, **values: object) -> Callable[[], bool]:
    """Whether the stage has written such a status, shipped or not."""

    def holds() -> bool:
        path = starting.directory_of(job_id, fence) / "status.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        return values.items() <= found.items()

    return holds


def active() -> list[str]:
    with transaction() as db:
        return [job.id for job in jobs.active_on(db, settings.node)]
