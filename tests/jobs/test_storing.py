"""The newest checkpoint of a job goes through the store, and the job on from it anywhere."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app import storage
from app.cluster import service as cluster
from app.config import settings
from app.db import now
from app.jobs import checkpoints, resuming, runs, storing
from app.jobs.storing import Due
from app.jobs.tables import Job, StoredCheckpoint
from tests.buckets import kinds
from tests.conftest import Client
from tests.factories import make_job, make_model, make_node
from tests.jobs.people import owner
from tests.jobs.test_checkpoints import write_checkpoint
from tests.models.files import write_model
from workers import checkpoints as node
from workers import starting
from workers import storing as worker
from workers.starting import directory_of

ELSEWHERE = "another"


@pytest.fixture
def job(db: Session, client: Client, bucketed: str, tmp_path: Path) -> Job:
    """It runs here, and has a checkpoint of step 20."""
    for name in (settings.node, ELSEWHERE):
        make_node(db, id=name, devices=1)
    base = make_model(db, artefact=storage.put(write_model(tmp_path / "base"), "models/base"))
    made = make_job(
        db,
        client.workspace,
        owner(db, client.workspace),
        model_id=base.id,
        state="running",
        node_id=settings.node,
        fence=2,
        step=20,
        total=50,
        pid=1,
        pid_started=1.0,
        started_at=now(),
    )
    db.commit()
    write_checkpoint(made, 20, best_step=10)
    write_checkpoint(made, 10)
    node.said = None
    look()
    return made


def look() -> None:
    """Both threads of the node that see to checkpoints."""
    node.tick(settings.node)
    worker.next_look = 0.0
    worker.tick(settings.node)


def home(db: Session, job: Job) -> str | None:
    """Where it has to run."""
    request = cluster.waiting(db, "job", job.id)
    assert request
    return request.node_id


def test_a_running_job_is_stored_now_and_then(db: Session, job: Job, bucketed: str) -> None:
    assert storing.due(db, settings.node) == []
    db.execute(update(Job).values(started_at=now() - 2 * storing.CADENCE))
    db.commit()
    look()
    assert resuming.stored(db, job.id) == (f"checkpoints/{job.id}-2-20", 20)
    write_checkpoint(job, 30)
    look()
    assert storing.due(db, settings.node) == []  # not that often
    db.execute(update(StoredCheckpoint).values(created_at=now() - timedelta(hours=1)))
    db.commit()
    look()
    db.expire_all()
    assert resuming.stored(db, job.id) == (f"checkpoints/{job.id}-2-30", 30)
    with pytest.raises(FileNotFoundError):
        storage.fetch(f"checkpoints/{job.id}-2-20")  # one is enough


def test_what_waits_is_free_to_go_on_anywhere(db: Session, job: Job, bucketed: str) -> None:
    assert runs.end(db, job.id, 2, outcome="stopped")
    db.commit()
    assert home(db, job) == settings.node  # nothing learnt is lost, so it waits for it
    request = cluster.waiting(db, "job", job.id)
    assert request
    since = request.created_at
    look()
    db.expire_all()
    assert home(db, job) is None
    request = cluster.waiting(db, "job", job.id)
    assert request
    assert request.created_at == since  # its place in the queue
    stored = storage.fetch(f"checkpoints/{job.id}-2-20")
    assert (stored / "checkpoint-20" / "optimizer.pt").is_file()
    assert (stored / "checkpoint-10" / "complete").is_file()  # the best one so far


def test_another_node_goes_on_from_it(
    db: Session, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert runs.end(db, job.id, 2, outcome="stopped")
    db.commit()
    look()
    assert runs.grant(db, job.id, ELSEWHERE)
    db.commit()
    facts = runs.start_facts(db, job.id, 3)
    assert facts
    here = starting.checkpoint(facts)
    assert here == str(directory_of(job.id, 2) / "checkpoints/checkpoint-20")
    monkeypatch.setattr(settings, "home", tmp_path / "elsewhere")  # which has none of it
    there = starting.checkpoint(facts)
    assert there
    assert there.endswith("/checkpoint-20")
    assert there.startswith(str(tmp_path / "elsewhere"))
    assert (Path(there) / "complete").is_file()


def test_nothing_is_kept_of_a_job_that_is_over(db: Session, job: Job, bucketed: str) -> None:
    worker.leave(settings.node, job.id)
    assert "checkpoints" in kinds(bucketed)
    resuming.clear(db)
    assert resuming.stored(db, job.id)
    assert runs.end(db, job.id, 2, outcome="failed")
    db.commit()
    resuming.clear(db)
    db.commit()
    assert resuming.stored(db, job.id) is None
    assert "checkpoints" not in kinds(bucketed)
    assert not worker.put(Due(job.id, 2, 10)) or "checkpoints" not in kinds(bucketed)  # too late


def test_an_older_one_changes_nothing(db: Session, job: Job, bucketed: str) -> None:
    worker.leave(settings.node, job.id)
    assert storing.note(db, job.id, 1, 10) == f"checkpoints/{job.id}-1-10"  # to be removed
    assert storing.note(db, job.id, 2, 20) is None
    assert resuming.stored(db, job.id) == (f"checkpoints/{job.id}-2-20", 20)


def test_a_checkpoint_that_went_meanwhile(db: Session, job: Job, bucketed: str) -> None:
    (directory_of(job.id, 2) / "checkpoints/checkpoint-20/complete").unlink()
    assert not worker.put(Due(job.id, 2, 20))
    assert resuming.stored(db, job.id) is None


def test_a_directory_is_of_use_to_a_second_machine_alone(
    db: Session, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "store", str(tmp_path / "shared"))
    assert storing.due(db, settings.node, job.id) == [Due(job.id, 2, 20)]
    monkeypatch.setattr(settings, "store", "")
    assert storing.due(db, settings.node, job.id) == []  # the store of one home
    assert checkpoints.on_node(db, settings.node) == {job.id}
