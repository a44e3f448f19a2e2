"""Validating and publishing in stretches: killed, doubled, late, and without their files."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets import browse, presets, service, work
from app.datasets.states import MOVES, switch
from app.datasets.tables import Dataset, DatasetVersion
from app.datasets.upload import Upload, scratch
from app.db import now
from app.errors import Conflict, Forbidden, Invalid, NotFound
from tests.datasets.files import BAD, many, row, stored
from tests.factories import make_dataset, make_user, make_workspace


@pytest.fixture
def who(db: Session) -> Principal:
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    db.commit()
    return Principal(
        user_id=user.id,
        email=user.email,
        name=user.name,
        workspace_id=workspace.id,
        workspace_name=workspace.name,
        role="owner",
        is_platform_admin=False,
    )


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large, and a stretch is short."""
    monkeypatch.setattr("app.datasets.work.INLINE_BYTES", 0)
    monkeypatch.setattr("app.datasets.validate.STEP_BYTES", 3000)


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
    service.resend(db)
    return sorted((task, args[0]) for task, args, _ in db.info.pop("outbox", []))


def test_a_large_file_goes_in_stretches(
    db: Session, who: Principal, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work.take(who, upload(many(200) + BAD + many(100)))
    assert made.status == "validating"
    assert nudges(db) == [("workers.validate_dataset", made.id)]
    work.validate_version(made.id)
    first = fresh(db, made.id)
    assert first.status == "validating"
    assert 0 < first.rows < 200
    assert len(browse.page(first, offset=0, limit=1000).rows) == first.rows
    done = finish(db, made.id)
    assert [done.status, done.rows, done.error_count] == ["draft", 302, 2]
    assert len(done.segments) > 3
    assert [issue.line for issue in service.issues(db, done.id)] == [202, 204]
    page = browse.page(done, offset=0, limit=1000)
    assert [number for number, _ in page.rows] == list(range(302))
    lines = [int(one["id"].split(".")[1]) for _, one in page.rows]
    assert lines == [*range(1, 202), 203, *range(205, 305)]
    assert nudges(db) == []  # and the upload is removed
    assert {path.split("/")[0] for path in stored()} == {"segments"}

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
    work.stretch(two)
    rows = fresh(db, made.id).rows
    work.stretch(one)  # the first one was only slow, and comes too late
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
    with monkeypatch.context() as patch:
        patch.setattr(work, "apply", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            work.validate_version(made.id)
    before = stored()
    db.execute(update(DatasetVersion).values(claimed_at=None))
    db.commit()
    work.validate_version(made.id)
    assert [path for path in stored() if path in before] == before  # the very same segment
    assert finish(db, made.id).rows == 200


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
    work.stretch(one)
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


# -- rules -------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "validating", "draft", "publishing", "published", "failed"])
@pytest.mark.parametrize("new", ["validating", "draft", "publishing", "published", "failed"])
def test_one_door_between_states(db: Session, old: str | None, new: str) -> None:
    version = make_dataset(db, None, status=old or "draft")
    version.status = old  # type: ignore[assignment]
    with db.no_autoflush:
        if new in MOVES[old]:
            switch(db, version, new)
            assert version.status == new
            assert service.events(db, [version.id])[0].new == new
        else:
            with pytest.raises(Conflict):
                switch(db, version, new)
            assert version.status == old


def test_published(db: Session, who: Principal) -> None:
    made = work.take(who, upload(many(3)))
    for wanted in (made.id, made.dataset_id):
        with pytest.raises(Conflict, match="reviews"):
            service.published(db, who.workspace_id, wanted)
    work.publish(who, made.dataset_id)
    newer = work.take(who, upload(many(4)), made.dataset_id)
    db.rollback()
    assert service.published(db, who.workspace_id, made.dataset_id).id == made.id
    assert service.published(db, who.workspace_id, made.id).dataset.name == "reviews"
    with pytest.raises(Conflict):
        service.published(db, who.workspace_id, newer.id)
    work.publish(who, made.dataset_id)
    db.rollback()
    assert service.published(db, who.workspace_id, made.dataset_id).id == newer.id
    assert [one.id for one in service.list_published(db, who.workspace_id)] == [newer.id]
    other = make_workspace(db)
    for wanted in (made.id, made.dataset_id, "ds_x"):
        with pytest.raises(NotFound):
            service.published(db, other.id, wanted)


def test_what_is_pinned_is_not_deleted(db: Session, who: Principal) -> None:
    made = work.take(who, upload(many(3)))
    for _ in range(2):
        service.pin(db, made.id, "job", "job_1")
    service.pin(db, made.id, "job", "job_2")
    with pytest.raises(Conflict, match="2 of them"):
        service.remove(db, who, made.dataset_id)
    service.unpin(db, made.id, "job", "job_1")
    service.unpin(db, made.id, "job", "job_2")
    service.unpin(db, made.id, "job", "job_2")
    service.remove(db, who, made.dataset_id)
    with pytest.raises(NotFound):
        service.pin(db, made.id, "job", "job_3")


def test_deleting_and_pinning_at_once_end_well(db: Session, who: Principal) -> None:
    """Whoever comes second waits, and is refused."""
    import threading

    from app.queue import transaction

    for _ in range(5):
        made = work.take(who, upload(many(1)))
        outcome: list[str] = []
        gate = threading.Barrier(2)

        def attempt(what: str, made: DatasetVersion = made, outcome: list[str] = outcome,
                    gate: threading.Barrier = gate) -> None:  # fmt: skip
            gate.wait()
            try:
                with transaction() as session:
                    if what == "pin":
                        service.pin(session, made.id, "job", "job_1")
                    else:
                        service.remove(session, who, made.dataset_id)
                outcome.append(what)
            except (Conflict, NotFound):
                pass

        threads = [threading.Thread(target=attempt, args=(what,)) for what in ("pin", "remove")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcome) == 1


def test_two_versions_at_once_get_two_numbers(db: Session, who: Principal) -> None:
    from concurrent.futures import ThreadPoolExecutor

    made = work.take(who, upload(many(1)))
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda _: work.take(who, upload(many(2)), made.dataset_id), range(4)))
    assert sorted(one.number for one in added) == [2, 3, 4, 5]


# -- samples -----------------------------------------------------------------------------


def test_samples(db: Session, who: Principal, tmp_path: Path) -> None:
    (tmp_path / "reviews-train.jsonl").write_bytes(many(5))
    (tmp_path / "notes.txt").write_text("not a sample")
    for _ in range(2):
        presets.ensure_samples(db, tmp_path)
        db.commit()
    found = service.published(
        db, who.workspace_id, service.list_published(db, who.workspace_id)[0].dataset_id
    )
    assert [found.dataset.name, found.rows, found.number] == ["reviews-train", 5, 1]
    assert found.dataset.workspace_id is None
    assert browse.row(found, 4)["messages"] == row("question 4", "answer 4")["messages"]
    with pytest.raises(Forbidden):
        service.remove(db, who, found.dataset_id)
    (tmp_path / "reviews-train.jsonl").write_bytes(many(6))
    presets.ensure_samples(db, tmp_path)
    db.commit()
    newer = service.published(db, who.workspace_id, found.dataset_id)
    assert [newer.number, newer.rows] == [2, 6]
    (tmp_path / "bad.jsonl").write_bytes(BAD)
    with pytest.raises(ValueError, match="bad"):
        presets.ensure_samples(db, tmp_path)


def test_the_shipped_samples_are_good(db: Session) -> None:
    service.ensure_samples(db)
    names = {one.name for one in db.query(Dataset)}
    assert names == {path.stem for path in presets.SAMPLES.glob("*.json*")}


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_a_name_is_found_for_what_has_none(name: str) -> None:
    assert service.clean_name(name, "a.b.jsonl") == "a.b"
    assert service.clean_name(name, ".jsonl") == "dataset"
    with pytest.raises(Invalid):
        service.clean_name("a\0", "")


def test_a_store_elsewhere(db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store: rows come through the content cache, and nothing stays of an upload."""
    monkeypatch.setattr("app.config.settings.store", "memory://danlu-test")
    made = work.take(who, upload(many(1500)))
    assert next(number for number, _ in browse.page(made, offset=1490, limit=50).rows) == 1490
    assert work.publish(who, made.dataset_id).status == "published"
    files, _ = storage.remote()
    assert {path.split("/")[2] for path in files.find("/danlu-test")} == {"segments"}
    cached = [path.name for path in (storage.settings.cache / "artefacts").iterdir()]
    assert not any((storage.settings.cache / "artefacts" / "uploads").glob("*")), cached
    service.remove(db, who, made.dataset_id)
    db.commit()
    work.clear(made.dataset_id)
    assert files.find("/danlu-test") == []
