"""Validating and publishing in stretches: killed, doubled, late, and without their files."""

import errno
import gzip
import shutil
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets import service, sweep, work
from app.datasets.intake.upload import Upload, scratch
from app.datasets.rows import browse
from app.datasets.tables import Dataset, DatasetVersion
from app.datasets.validation import checking
from app.datasets.validation.checking import Turn
from app.db import now
from app.errors import Conflict
from tests.datasets.files import BAD, many, stored


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large, and a stretch is short."""
    monkeypatch.setattr("app.datasets.work.INLINE_BYTES", 0)
    monkeypatch.setattr("app.datasets.validation.validate.STEP_BYTES", 6000)
    monkeypatch.setattr("app.datasets.validation.validate.BATCH", 1000)


def upload(data: bytes, name: str = "reviews") -> Upload:
    made = Upload(scratch(), "a.jsonl", len(data), {"name": name})
    made.path.write_bytes(data)
    return made


def fresh(db: Session, version_id: str) -> DatasetVersion:
    db.rollback()
    db.expire_all()
    found = db.get(DatasetVersion, version_id)
    assert found
    return found


def finish(db: Session, version_id: str) -> DatasetVersion:
    for _ in range(100):
        found = fresh(db, version_id)
        if found.status not in ("validating", "publishing"):
            return found
        work.validate_version(version_id)
        work.publish_version(version_id)
    raise AssertionError("it does not end")


def nudges(db: Session) -> list[tuple[str, Any]]:
    db.rollback()
    db.expire_all()
    sweep.resend(db)
    return sorted((task, args[0]) for task, args, _ in db.info.pop("outbox", []))


def test_a_large_file_goes_in_stretches(
    db: Session, who: Principal, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work.take(who, upload(many(200) + BAD + many(100)))
    assert made.status == "validating"
    assert nudges(db) == [("workers.validate_dataset", made.id)]
    for _ in range(2):  # unpack, read
        work.validate_version(made.id)
    first = fresh(db, made.id)
    assert first.status == "validating"
    assert 0 < first.rows < 200
    assert len(browse.page(first, offset=0, limit=1000).rows) == first.rows
    done = finish(db, made.id)
    assert [done.status, done.rows, done.error_count] == ["draft", 302, 2]
    assert len(done.segments) > 2
    assert [issue.line for issue in service.issues(db, done.id, level="error")] == [202, 204]
    page = browse.page(done, offset=0, limit=1000)
    assert [number for number, _ in page.rows] == list(range(302))
    lines = [int(one["id"].split(".")[1]) for _, one in page.rows]
    assert lines == [*range(1, 202), 203, *range(205, 305)]
    assert nudges(db) == []  # and the upload is removed
    assert {path.split("/")[0] for path in stored()} == {"segments", "facts", "checks"}

    frozen = work.publish(who, done.dataset_id, skip_invalid=True)
    assert frozen.status == "publishing"
    assert nudges(db) == [("workers.publish_dataset", done.id)]
    frozen = finish(db, done.id)
    assert frozen.status == "published"

    monkeypatch.undo()  # now it is small, and goes at once
    inline = work.take(who, upload(many(200) + BAD + many(100)))
    again = work.publish(who, inline.dataset_id, skip_invalid=True)
    assert again.content_hash == frozen.content_hash


def test_nobody_takes_what_another_is_at(db: Session, who: Principal, large: None) -> None:
    made = work.take(who, upload(many(200)))
    one = work.claim(made.id, "validating")
    assert one is not None
    assert work.claim(made.id, "validating") is None
    assert nudges(db) == []
    db.execute(update(DatasetVersion).values(claimed_at=now() - timedelta(minutes=3)))
    db.commit()
    assert nudges(db) == [("workers.validate_dataset", made.id)]
    two = work.claim(made.id, "validating")
    assert two is not None
    checking.stretch(two)
    rows = fresh(db, made.id).rows
    checking.stretch(one)  # the first one was only slow, and comes too late
    assert fresh(db, made.id).rows == rows
    done = finish(db, made.id)
    assert [done.status, done.rows] == ["draft", 200]
    assert len(browse.page(done, offset=0, limit=1000).rows) == 200


def test_a_nudge_too_many_finds_nothing_to_do(db: Session, who: Principal) -> None:
    made = work.take(who, upload(many(3)))
    for _ in range(2):
        work.validate_version(made.id)
        work.publish_version(made.id)
        work.clear(made.dataset_id)
    work.validate_version("dv_unknown")
    work.clear("ds_unknown")
    assert fresh(db, made.id).status == "draft"
    assert len(browse.page(fresh(db, made.id), offset=0, limit=9).rows) == 3


def test_a_kill_between_storing_and_saying_so(
    db: Session, who: Principal, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work.take(who, upload(many(200)))
    while (stage := fresh(db, made.id).cursor.get("stage", "unpack")) != "match":
        with monkeypatch.context() as patch:
            patch.setattr(Turn, "hold", lambda *_: (_ for _ in ()).throw(SystemExit))
            with pytest.raises(SystemExit):
                work.validate_version(made.id)
        before = stored()
        db.execute(update(DatasetVersion).values(claimed_at=None))
        db.commit()
        work.validate_version(made.id)
        gone = [path for path in before if path not in stored()]
        assert all(path.startswith("plain/") for path in gone), stage  # the very same artefacts
    done = finish(db, made.id)
    assert [done.status, done.rows, len(list(browse.lines(done)))] == ["draft", 200, 200]
    assert nudges(db) == []
    artefacts = {path.rpartition("/")[0] for path in stored()}
    assert {path.split("/")[0] for path in artefacts} == {"segments", "facts", "checks"}
    assert len(artefacts) == 2 * len(done.segments) + 1


def test_what_kills_its_worker_is_given_up(db: Session, who: Principal, large: None) -> None:
    made = work.take(who, upload(many(200)))
    for _ in range(work.MAX_ATTEMPTS):
        assert work.claim(made.id, "validating")
        db.execute(update(DatasetVersion).values(claimed_at=None))
        db.commit()
    assert work.claim(made.id, "validating") is None
    found = fresh(db, made.id)
    assert found.status == "failed"
    assert found.error
    assert found.error["code"] == "stopped"
    assert nudges(db) == [("workers.clear_dataset", made.dataset_id)]
    work.clear(made.dataset_id)
    assert stored() == []
    assert nudges(db) == []


def test_a_lost_upload_fails_in_the_end(db: Session, who: Principal, large: None) -> None:
    made = work.take(who, upload(many(200)))
    storage.delete(made.upload)
    for _ in range(work.MAX_ATTEMPTS + 1):
        work.validate_version(made.id)
        assert fresh(db, made.id).rows == 0
        db.execute(update(DatasetVersion).values(claimed_at=None))
        db.commit()
    assert fresh(db, made.id).status == "failed"


def test_a_large_file_without_a_good_row_fails(db: Session, who: Principal, large: None) -> None:
    made = work.take(who, upload(b"nonsense\n" * 1000))
    found = finish(db, made.id)
    assert found.status == "failed"
    assert found.error
    assert found.error["code"] == "file.no_rows"
    assert found.error["params"]["line"] == 1
    assert stored() == []
    with pytest.raises(Conflict):
        work.publish(who, found.dataset_id)


def test_deleted_while_it_is_validated(db: Session, who: Principal, large: None) -> None:
    made = work.take(who, upload(many(200)))
    work.validate_version(made.id)
    one = work.claim(made.id, "validating")
    assert one
    service.remove(db, who, made.dataset_id)
    assert ("workers.clear_dataset", (made.dataset_id,), "control") in db.info.pop("outbox")
    db.commit()
    checking.stretch(one)
    assert nudges(db) == [("workers.clear_dataset", made.dataset_id)]
    work.clear(made.dataset_id)
    assert stored() == []
    assert nudges(db) == []


def test_an_upload_that_cannot_be_stored_leaves_nothing(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "move", fail)
    made = upload(many(3))
    with pytest.raises(OSError, match="space"):
        work.take(who, made)
    shutil.rmtree(made.directory)
    db.rollback()
    assert db.query(Dataset).count() == 0
    assert stored() == []


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_what_is_not_in_the_store_is_not_published(
    db: Session, who: Principal, damage: str
) -> None:
    made = work.take(who, upload(many(1500)))
    directory = storage.fetch(made.segments[0]["artefact"])
    data = directory / "rows.jsonl.zst"
    if damage == "gone":
        shutil.rmtree(directory)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:-100])
    else:
        changed = bytearray(data.read_bytes())
        changed[200] ^= 0xFF
        data.write_bytes(changed)
    frozen = work.publish(who, made.dataset_id)
    assert frozen.status == "failed"
    assert frozen.error
    assert frozen.error["code"] == "rows.lost"


# -- room --------------------------------------------------------------------------------


def test_a_full_disk_is_waited_out(
    db: Session, who: Principal, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work.take(who, upload(many(50)))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("app.datasets.containers.unpacking.unpack", full)
        for _ in range(work.MAX_ATTEMPTS + 2):
            work.validate_version(made.id)
            waits = fresh(db, made.id)
            assert (waits.status, waits.attempts) == ("validating", 0)
            assert waits.error
            assert waits.error["code"] == "disk_full"
            assert nudges(db) == []  # not before the claim is stale
            waits.claimed_at = now() - service.STALE * 2
            db.commit()
    assert ("workers.validate_dataset", made.id) in nudges(db)
    done = finish(db, made.id)
    assert (done.status, done.rows, done.error) == ("draft", 50, None)


def test_what_may_be_larger_than_it_looks_is_not_read_while_its_uploader_waits(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.datasets.work.PACKED_BYTES", 100)
    assert work.take(who, upload(many(50))).status == "draft"
    made = work.take(who, upload(gzip.compress(many(5000))))
    assert made.status == "validating"
    assert finish(db, made.id).rows == 5000
