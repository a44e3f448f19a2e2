"""What may be published, pinned and deleted; the samples."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app import cache
from app.accounts.auth import Principal
from app.datasets import presets, service, work
from app.datasets.rows import browse
from app.datasets.states import MOVES, switch
from app.datasets.tables import Dataset, DatasetVersion
from app.errors import Conflict, Forbidden, Invalid, NotFound
from tests.buckets import kinds
from tests.datasets.files import BAD, many, row
from tests.datasets.test_trash import aged
from tests.datasets.test_work import large, upload  # noqa: F401
from tests.factories import make_dataset, make_workspace

# -- rules -------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "validating", "draft", "publishing", "published", "failed"])
@pytest.mark.parametrize("new", ["validating", "draft", "publishing", "published", "failed"])
def test_one_door_between_states(db: Session, old: str | None, new: str) -> None:
    version = make_dataset(db, None, status=old or "draft")
    version.status = old
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


def test_a_store_elsewhere(db: Session, who: Principal, bucketed: str) -> None:
    """A bucket: rows come through what is kept here, and nothing stays of an upload."""
    made = work.take(who, upload(many(1500)))
    assert next(number for number, _ in browse.page(made, offset=1490, limit=50).rows) == 1490
    assert work.publish(who, made.dataset_id).status == "published"
    assert kinds(bucketed) == {"segments", "facts", "checks"}
    assert not list((cache.root() / "artefacts" / "uploads").glob("*"))
    service.remove(db, who, made.dataset_id)
    db.commit()
    work.clear(made.dataset_id)  # it can still be brought back
    assert kinds(bucketed) == {"segments", "facts", "checks"}
    aged(db, made.dataset_id, 8)
    work.clear(made.dataset_id)
    assert kinds(bucketed) == set()
