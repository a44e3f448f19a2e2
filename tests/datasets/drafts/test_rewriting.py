"""Acts on very many rows, publishing a draft with edits, new drafts: in stretches, killed, doubled."""

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.datasets import service, sweep, work
from app.datasets.drafts import acts, edits, overlay, redraft, rewriting
from app.datasets.drafts.replacing import Wanted
from app.datasets.tables import DatasetVersion, DraftAct
from app.db import engine
from app.errors import Conflict, Invalid
from tests.datasets.drafts.test_drafts import fresh, ids, over_hash, texts, upload
from tests.datasets.files import many, row, stored
from tests.datasets.test_trash import aged


def finish(version: DatasetVersion) -> DatasetVersion:
    """What a worker would do."""
    for _ in range(300):
        with Session(engine()) as db:
            running = acts.running(db, version.id)
        found = fresh(version.id)
        if found.status not in ("validating", "publishing") and running is None:
            return found
        if running:
            rewriting.change_draft(running.id)
        work.validate_version(version.id)
        work.publish_version(version.id)
    raise AssertionError("it does not end")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments hold few rows, and everything counts as large."""
    monkeypatch.setattr("app.datasets.work.INLINE_BYTES", 0)
    monkeypatch.setattr("app.datasets.validation.validate.STEP_BYTES", 3000)
    monkeypatch.setattr("app.datasets.validation.validate.BATCH", 1000)
    monkeypatch.setattr("app.datasets.drafts.rewriting.TAIL_ROWS", 0)
    monkeypatch.setattr("app.datasets.drafts.rewriting.MOST_CHANGES", 3)


# -- replacing ---------------------------------------------------------------------------


def test_replace_is_one_act(db: Session, who: Principal) -> None:
    version = upload(who, many(10))
    act = rewriting.replace(
        who, version.dataset_id, "", Wanted("answer", "回答", roles=("assistant",))
    )
    assert [act.state, act.rows] == ["done", 10]
    assert texts(version)[3] == "回答 3"
    assert overlay.row(fresh(version.id), 3)["messages"][0]["content"] == "question 3"
    acts.undo(who, version.dataset_id)
    assert texts(version)[3] == "answer 3"
    assert ids(version) == [f"{version.id}.{at}" for at in range(1, 11)]


def test_what_would_break_a_rule_is_left(db: Session, who: Principal) -> None:
    version = upload(who, many(10))
    act = rewriting.replace(who, version.dataset_id, "", Wanted("answer 3", ""))
    assert [act.state, act.rows, act.params["refused"]] == ["done", 0, 1]
    with pytest.raises(Conflict):
        acts.undo(who, version.dataset_id)


def test_delete_what_is_found(db: Session, who: Principal) -> None:
    version = upload(who, many(30))
    act = rewriting.delete_found(who, version.dataset_id, "", {"q": "answer 1"})
    assert act.rows == 11
    assert len(texts(version)) == 19
    with pytest.raises(Invalid):
        rewriting.delete_found(who, version.dataset_id, "", {"q": "answer"})
    assert fresh(version.id).rows == 19
    with Session(engine()) as session:
        assert acts.running(session, version.id) is None


def test_a_large_act_writes_segments(db: Session, who: Principal, short: None) -> None:
    version = finish(upload(who, many(200)))
    parts = version.segments
    assert len(parts) > 3
    edits.edit(
        who, version.dataset_id, "", "5", row("q", "answer five"), over_hash(overlay.of(version), 5)
    )
    edits.add(who, version.dataset_id, "", [row("q", "answer last")])
    before = texts(version)
    act = rewriting.replace(who, version.dataset_id, "", Wanted("answer", "reply"))
    assert act.state == "running"
    for asked in (
        lambda: edits.add(who, version.dataset_id, "", [row()]),
        lambda: acts.undo(who, version.dataset_id),
        lambda: work.publish(who, version.dataset_id),
    ):
        with pytest.raises(Conflict) as caught:
            asked()
        assert caught.value.code == "busy"
    assert texts(version) == before  # nothing is to be seen before all is done
    done = finish(version)
    assert done.segments != parts
    assert texts(version) == [text.replace("answer", "reply") for text in before]
    edits.delete(who, version.dataset_id, "", [f"{version.id}.1"])  # on top of the new segments
    assert len(texts(version)) == 200
    acts.undo(who, version.dataset_id)
    acts.undo(who, version.dataset_id)
    assert texts(version) == before
    assert fresh(version.id).segments == parts
    acts.redo(who, version.dataset_id)
    assert texts(version)[5] == "reply five"
    acts.undo(who, version.dataset_id)
    acts.undo(who, version.dataset_id)
    acts.undo(who, version.dataset_id)
    assert texts(version) == [f"answer {at}" for at in range(200)]


def test_a_large_act_is_killed_and_doubled(
    db: Session, who: Principal, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = finish(upload(who, many(200)))
    act = rewriting.delete_found(who, version.dataset_id, "", {"q": "answer 1"})
    assert act.state == "running"
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "hold", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            rewriting.change_draft(act.id)
    rewriting.change_draft(act.id)  # nobody takes it while it seems to be worked on
    db.execute(update(DraftAct).values(claimed_at=None))
    db.commit()
    rewriting.resend(db)
    assert ("workers.change_draft", (act.id,), "control") in db.info.pop("outbox")
    stale = db.get_one(DraftAct, act.id)
    db.expunge(stale)
    rewriting.change_draft(act.id)
    rewriting.stretch(stale)  # the first one was only slow
    finish(version)
    assert len(texts(version)) == 200 - 111
    assert fresh(version.id).rows == 200 - 111


def test_a_large_act_is_stopped(db: Session, who: Principal, short: None) -> None:
    version = finish(upload(who, many(200)))
    before = stored()
    act = rewriting.replace(who, version.dataset_id, "", Wanted("answer", "reply"))
    rewriting.change_draft(act.id)
    rewriting.change_draft(act.id)
    assert stored() != before
    rewriting.stop(who, version.dataset_id)
    assert stored() == before
    assert texts(version)[0] == "answer 0"
    edits.add(who, version.dataset_id, "", [row()])
    with pytest.raises(Conflict):
        rewriting.stop(who, version.dataset_id)


# -- publishing and new drafts -----------------------------------------------------------


def test_publishing_keeps_what_was_not_touched(db: Session, who: Principal, short: None) -> None:
    version = finish(upload(who, many(200)))
    parts = version.segments
    edits.delete(who, version.dataset_id, "", [f"{version.id}.3"])
    edits.add(who, version.dataset_id, "", [row("q", "tail")])
    said = texts(version)
    assert work.publish(who, version.dataset_id).status == "publishing"
    assert texts(version) == said
    work.publish_version(version.id)
    assert texts(version) == said
    frozen = finish(version)
    assert frozen.status == "published"
    assert texts(frozen) == said
    assert frozen.segments[1 : len(parts)] == parts[1:]
    assert [len(frozen.segments), frozen.segments[-1]["rows"]] == [len(parts) + 1, 1]
    kept = {part["artefact"] for part in frozen.segments}
    left = {"/".join(path.split("/")[:2]) for path in stored()}
    assert {artefact for artefact in left if artefact.startswith("segments/")} == kept
    sweep.resend(db)
    assert "workers.clear_dataset" not in [task for task, *_ in db.info.pop("outbox", [])]


def test_publishing_is_killed_in_the_middle(
    db: Session, who: Principal, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = finish(upload(who, many(100)))
    edits.delete(who, version.dataset_id, "", [f"{version.id}.3", f"{version.id}.90"])
    said = texts(version)
    work.publish(who, version.dataset_id)
    work.publish_version(version.id)
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "hold", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            work.publish_version(version.id)
    db.execute(update(DatasetVersion).values(claimed_at=None))
    db.commit()
    frozen = finish(version)
    assert [frozen.status, texts(frozen)] == ["published", said]


def test_a_new_draft_shares_the_rows(db: Session, who: Principal) -> None:
    version = upload(who, many(5))
    with pytest.raises(Conflict, match="not published"):
        redraft.begin(who, version.dataset_id)
    first = work.publish(who, version.dataset_id)
    draft = redraft.begin(who, version.dataset_id, "1")
    assert [draft.status, draft.number, draft.parent_id] == ["draft", 2, first.id]
    assert [draft.recipe["made"], draft.segments] == ["draft", first.segments]
    with pytest.raises(Conflict) as caught:
        redraft.begin(who, version.dataset_id, "1")
    assert caught.value.code == "open_draft"
    edits.delete(who, version.dataset_id, "", [f"{version.id}.1"])
    edits.add(who, version.dataset_id, "", [row("q", "mine")])
    second = work.publish(who, version.dataset_id)
    assert texts(first) == [f"answer {at}" for at in range(5)]
    assert texts(second) == ["answer 1", "answer 2", "answer 3", "answer 4", "mine"]
    assert ids(second)[:4] == ids(first)[1:]
    assert first.content_hash != second.content_hash
    again = redraft.begin(who, version.dataset_id)
    assert work.publish(who, version.dataset_id, which=again.id).content_hash == second.content_hash


def test_a_draft_is_discarded(db: Session, who: Principal) -> None:
    version = upload(who, many(5))
    with pytest.raises(Conflict):
        redraft.discard(who, version.dataset_id)
    work.publish(who, version.dataset_id)
    kept = stored()
    draft = redraft.begin(who, version.dataset_id)
    edits.delete(who, version.dataset_id, "", [f"{version.id}.1"])
    redraft.discard(who, version.dataset_id, str(draft.number))
    assert stored() == kept
    assert len(service.versions(db, version.dataset_id)) == 1
    with pytest.raises(Conflict):
        redraft.discard(who, version.dataset_id)
    assert texts(version) == [f"answer {at}" for at in range(5)]
    assert db.scalar(select(DraftAct)) is None


def test_a_deleted_dataset_leaves_no_segment(db: Session, who: Principal, short: None) -> None:
    version = finish(upload(who, many(100)))
    rewriting.replace(who, version.dataset_id, "", Wanted("answer", "reply"))
    finish(version)
    service.remove(db, who, version.dataset_id)
    db.commit()
    aged(db, version.dataset_id, 8)  # until then it can be brought back
    db.info.clear()
    work.clear(version.dataset_id)
    assert stored() == []
    sweep.resend(db)
    assert "outbox" not in db.info
