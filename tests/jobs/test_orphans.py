"""What a node put into the store and never told of: found, and removed after a day."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import bucket, storage
from app.accounts.tables import AuditEntry
from app.config import settings
from app.db import now
from app.jobs import orphans
from app.jobs.tables import Job, StoredCheckpoint
from tests.buckets import kinds
from tests.conftest import Client
from tests.factories import added, make_job, make_model
from tests.jobs.people import owner


@pytest.fixture(params=["bucket", "directory"])
def store(request: pytest.FixtureRequest) -> None:
    if request.param == "bucket":
        request.getfixturevalue("bucketed")


@pytest.fixture
def job(db: Session, client: Client) -> Job:
    """Over, with a model."""
    made = make_job(db, client.workspace, owner(db, client.workspace), state="succeeded", fence=2)
    make_model(db, client.workspace, artefact=put(f"models/{made.id}-2"))
    db.commit()
    return made


def put(artefact: str) -> str:
    made = settings.home / "made"
    made.mkdir(exist_ok=True)
    (made / "weights").write_bytes(b"w" * 10)
    return storage.put(made, artefact)


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day has gone by."""
    monkeypatch.setattr(orphans, "now", lambda: now() + orphans.OLD + timedelta(minutes=1))


def test_what_no_row_names_goes_after_a_day(
    db: Session, client: Client, store: None, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make_job(db, client.workspace, client.user, state="running", fence=1)
    db.commit()
    lost = [
        put(f"checkpoints/{job.id}-1-20"),  # stored, and the node died
        put(f"models/{job.id}-1"),  # of an attempt that ended otherwise
        put(f"models/{job.id}-2-step-10"),
        put(f"exports/{job.id}-1"),
    ]
    kept = [
        f"models/{job.id}-2",
        put(f"exports/{job.id}-2"),
        put(f"checkpoints/{running.id}-1-20"),
        put("models/starter-3"),
        put("models/job_ofanotherdatabase-1"),
    ]
    assert orphans.clear() == []  # a node may be about to tell
    later(monkeypatch)
    assert sorted(orphans.clear()) == sorted(lost)
    assert orphans.clear() == []
    for one in lost:
        with pytest.raises(FileNotFoundError):
            storage.fetch(one)
    for one in kept:
        assert (storage.fetch(one) / "weights").is_file()
    told = select(AuditEntry).where(AuditEntry.action == "clear", AuditEntry.noun_id == job.id)
    assert {one.before["artefact"] for one in db.scalars(told)} == set(lost)


def test_what_a_row_names_stays(
    db: Session, store: None, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"checkpoints/{job.id}-2-30")
    added(db, StoredCheckpoint(job_id=job.id, fence=2, step=30))
    db.commit()
    later(monkeypatch)
    assert orphans.clear() == []


def test_halves_and_parts_of_uploads_go(
    db: Session, bucketed: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the manifest was written, and in the middle of a large file."""
    place, key = bucket.place(f"checkpoints/{job.id}-1-40", "optimizer.pt")
    bucket.client().put_object(Bucket=place, Key=key, Body=b"o")
    bucket.client().create_multipart_upload(Bucket=place, Key=f"{key}.2")
    assert bucket.client().list_multipart_uploads(Bucket=place)["Uploads"]  # all of 2010 in moto
    orphans.clear()
    assert "checkpoints" in kinds(bucketed)
    later(monkeypatch)
    assert orphans.clear() == [f"checkpoints/{job.id}-1-40"]
    assert "checkpoints" not in kinds(bucketed)
    assert not bucket.client().list_multipart_uploads(Bucket=place).get("Uploads")


def test_half_a_copy_in_a_directory_goes(
    db: Session, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Path(settings.store_url) / "models/.partial-x/d"
    half.mkdir(parents=True)
    orphans.clear()
    assert half.exists()
    later(monkeypatch)
    orphans.clear()
    assert not half.exists()


def test_somebody_looks_each_hour(db: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "looked", 0.0)
    orphans.resend(db)
    assert db.info.pop("outbox") == [("workers.clear_store", (), "control")]
    orphans.resend(db)
    assert not db.info.get("outbox")
