"""What stays of jobs that are over: real run directories, the real database, and kills in between."""

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import cache
from app.accounts import platform
from app.accounts.tables import AuditEntry
from app.config import settings
from app.db import now
from app.jobs import retention
from app.jobs.tables import Job, JobCheckpoint, JobEvent, JobFiles, JobLog
from tests.conftest import Client
from tests.factories import make_job, make_node
from tests.jobs.people import owner
from workers import checkpoints, clearing
from workers.starting import directory_of

KILLED = """
import os, signal
from app import tables
from workers import clearing
{patch}
clearing.clear()
"""


@pytest.fixture
def job(db: Session, client: Client) -> Job:
    """Over for eight days, with checkpoints of steps 10, 20 and 30."""
    make_node(db, id=settings.node)
    made = make_job(
        db, client.workspace, owner(db, client.workspace), state="succeeded", fence=1,
        node_id=settings.node, finished_at=now() - timedelta(days=8),
    )  # fmt: skip
    write(made, {10: 0.9, 20: 0.5, 30: 0.7})
    db.commit()
    checkpoints.said = None
    checkpoints.tick(settings.node)
    return made


def write(job: Job, losses: dict[int, float], fence: int = 1) -> Path:
    run = directory_of(job.id, fence)
    for step, loss in losses.items():
        place = run / f"checkpoints/checkpoint-{step}"
        place.mkdir(parents=True)
        (place / "adapter_model.safetensors").write_bytes(b"w" * 1000)
        (place / "optimizer.pt").write_bytes(b"o" * 2000)
        (place / "complete").write_text(json.dumps({"loss": loss, "eval_loss": loss}))
    (run / "words").mkdir(exist_ok=True)
    (run / "words/tokenizer.json").write_text("{}")
    (run / "spec.json").write_text("{}")
    (run / "log").write_bytes(b"l" * 500)
    (run / "adapter").mkdir(exist_ok=True)
    (run / "adapter/adapter_model.safetensors").write_bytes(b"a" * 700)
    return run


def keep(db: Session, **values: object) -> None:
    platform.change(db, None, retention=values)
    db.commit()


def steps(db: Session, job: Job) -> list[int]:
    db.expire_all()
    mine = select(JobCheckpoint.step).where(JobCheckpoint.job_id == job.id)
    return sorted(db.scalars(mine))


def on_disk(job: Job) -> list[int]:
    places = directory_of(job.id, 1).glob("checkpoints/checkpoint-*")
    return sorted(int(place.name.rpartition("-")[2]) for place in places)


def cleared(db: Session) -> list[AuditEntry]:
    return list(db.scalars(select(AuditEntry).where(AuditEntry.action == "clear")))


def killed(patch: str) -> None:
    """Clear in another process, which dies where `patch` says."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(patch=patch)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_after_its_days_all_of_it_goes(db: Session, client: Client, job: Job) -> None:
    whose = (db, client.workspace, owner(db, client.workspace))
    later = make_job(
        *whose,
        state="failed",
        fence=1,
        node_id=settings.node,
        finished_at=now() - timedelta(days=6),
    )
    running = make_job(*whose, state="running", fence=1, node_id=settings.node)
    db.commit()
    for one in (later, running):
        write(one, {10: 0.5})
    checkpoints.tick(settings.node)
    clearing.clear()
    assert not directory_of(job.id, 1).exists()
    assert steps(db, job) == []
    assert on_disk(later) == on_disk(running) == steps(db, later) == [10]
    standing = {row.job_id: row for row in db.scalars(select(JobFiles))}
    assert set(standing) == {later.id, running.id}
    size = 3000 + len(json.dumps({"loss": 0.5, "eval_loss": 0.5}))
    assert standing[later.id].checkpoints == {"10": size}
    assert standing[later.id].others == 1200
    (entry,) = cleared(db)
    assert (entry.actor, entry.noun, entry.noun_id) == ("system", "job", job.id)
    assert entry.workspace_id == job.workspace_id
    assert entry.before["checkpoints"] == [10, 20, 30]
    assert entry.before["bytes"] == 3 * size + 1200
    assert db.scalar(select(JobEvent.kind).where(JobEvent.job_id == job.id)) == "cleared"


def test_the_last_and_the_best_stay(db: Session, job: Job) -> None:
    keep(db, checkpoints="few", run_days=0)
    clearing.clear()
    assert steps(db, job) == on_disk(job) == [20, 30]
    run = directory_of(job.id, 1)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "spec.json", "words"]
    assert len(cleared(db)) == 1
    clearing.clear()  # nothing more goes, and nothing more is said
    assert on_disk(job) == [20, 30]
    assert len(cleared(db)) == 1
    checkpoints.tick(settings.node)
    assert steps(db, job) == [20, 30]


def test_each_has_days_of_its_own(db: Session, job: Job) -> None:
    keep(db, checkpoints="all", run_days=9)
    clearing.clear()
    assert on_disk(job) == [10, 20, 30]
    assert (directory_of(job.id, 1) / "log").exists()
    keep(db, checkpoints="none", checkpoint_days=9, run_days=7)
    clearing.clear()
    assert on_disk(job) == [10, 20, 30]
    assert not (directory_of(job.id, 1) / "log").exists()


def test_what_is_wanted_stays(db: Session, client: Client, job: Job) -> None:
    """A job that is kept; a step that is being published; one that another job waits for."""
    assert client.put(f"/api/v1/jobs/{job.id}/keep", json={"keep": True}).json() == {"keep": True}
    assert client.get(f"/api/v1/jobs/{job.id}").json()["keep"] is True
    clearing.clear()
    assert on_disk(job) == steps(db, job) == [10, 20, 30]
    page = client.post(f"/jobs/{job.id}/keep", data={}).text
    assert 'data-testid="job-keep"' in page
    db.get_one(JobCheckpoint, (job.id, 10)).state = "publishing"
    make_job(
        db, client.workspace, owner(db, client.workspace), model_id=job.model_id,
        start=f"{job.id}/checkpoint-20",
    )  # fmt: skip
    db.commit()
    clearing.clear()
    assert on_disk(job) == steps(db, job) == [10, 20]
    assert (directory_of(job.id, 1) / "log").exists()  # the node may say why it cannot publish


def test_a_published_one_is_a_model_and_its_row_stays(db: Session, job: Job) -> None:
    db.get_one(JobCheckpoint, (job.id, 20)).state = "published"
    db.commit()
    clearing.clear()
    assert steps(db, job) == [20]
    assert not directory_of(job.id, 1).exists()


@pytest.mark.parametrize(
    "where",
    [
        "clearing.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        "clearing.erase = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["rows gone, files there", "renamed, bytes there"],
)
def test_a_kill_in_between_loses_and_leaves_nothing(db: Session, job: Job, where: str) -> None:
    keep(db, checkpoints="few", run_days=9)
    killed(where)
    assert steps(db, job) == [20, 30]
    left = [*directory_of(job.id, 1).glob("checkpoints/.gone-*"), *on_disk(job)]
    assert len(left) == 3
    clearing.clear()
    assert steps(db, job) == on_disk(job) == [20, 30]
    assert not list(settings.runs.rglob(".gone-*"))
    assert len(cleared(db)) == 1


def test_a_kill_before_the_commit_changes_nothing(db: Session, job: Job) -> None:
    killed(
        "from app.jobs import retention\n"
        "retention.audit.note = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert steps(db, job) == on_disk(job) == [10, 20, 30]
    clearing.clear()
    assert steps(db, job) == []


def test_files_that_attempts_share_count_once(db: Session, job: Job) -> None:
    second = directory_of(job.id, 2) / "checkpoints/checkpoint-30"
    second.mkdir(parents=True)
    first = directory_of(job.id, 1) / "checkpoints/checkpoint-30/optimizer.pt"
    (second / "optimizer.pt").hardlink_to(first)
    (found,) = clearing.standing()
    assert found.checkpoints[30] == found.checkpoints[10]


def test_logs_have_days_too(db: Session, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    db.add(JobLog(job_id=job.id, fence=1, offset=0, data=b"hello\n"))
    db.commit()
    monkeypatch.setattr(retention, "looked", 0.0)
    retention.clear_logs(db)
    assert db.scalar(select(JobLog.job_id)) == job.id
    keep(db, log_days=8)
    monkeypatch.setattr(retention, "looked", 0.0)
    retention.clear_logs(db)
    db.commit()
    assert db.scalar(select(JobLog.job_id)) is None
    assert cleared(db)[0].before == {"log": 6}


def test_the_cache_has_the_limit_that_was_set() -> None:
    cache.limit(3)
    assert cache.most() == 3 * 10**9
    cache.limit(0)
    assert cache.most() == settings.cache_gb * 10**9
