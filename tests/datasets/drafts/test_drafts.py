"""Drafts: edits laid over segments, the rules of a row, two editors, undo."""

import random
import time
from typing import Any

import orjson
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets import formats, work
from app.datasets.drafts import acts, edits, finding, overlay, rewriting
from app.datasets.drafts.replacing import Wanted
from app.datasets.intake.upload import Upload, scratch
from app.datasets.rows import segments
from app.datasets.tables import DatasetVersion
from app.db import engine
from app.errors import Conflict, Forbidden, Invalid, NotFound
from tests.datasets.files import jsonl, many, row
from tests.factories import make_dataset


def upload(who: Principal, data: bytes, dataset_id: str = "") -> DatasetVersion:
    made = Upload(scratch(), "a.jsonl", len(data), {"name": "reviews"})
    made.path.write_bytes(data)
    return work.take(who, made, dataset_id)


def fresh(version_id: str) -> DatasetVersion:
    with Session(engine(), expire_on_commit=False) as db:
        return db.get_one(DatasetVersion, version_id)


def texts(version: DatasetVersion, offset: int = 0, limit: int = 10_000) -> list[str]:
    """The answers of a page."""
    page = overlay.page(fresh(version.id), offset=offset, limit=limit)
    assert [number for number, _ in page.rows] == list(range(offset, offset + len(page.rows)))
    return [one["messages"][-1]["content"] for _, one in page.rows]


def ids(version: DatasetVersion) -> list[str]:
    page = overlay.page(fresh(version.id), offset=0, limit=10_000)
    return [one["id"] for _, one in page.rows]


# -- the overlay -------------------------------------------------------------------------


def test_ranks_lie_between() -> None:
    seed = random.Random(7)
    ranks = [""]
    for _ in range(2000):
        at = seed.randrange(len(ranks))
        after = ranks[at + 1] if at + 1 < len(ranks) else ""
        made = edits.between(ranks[at], after)
        assert ranks[at] < made
        assert not after or made < after
        ranks.insert(at + 1, made)


def test_edits_lie_over_the_rows(db: Session, who: Principal) -> None:
    """Random acts against a plain list; every page is what the list says, also after undoing."""
    version = upload(who, many(40))
    dataset = version.dataset_id
    seed = random.Random(3)
    said = [f"answer {at}" for at in range(40)]
    past = [list(said)]
    for step in range(80):
        names = ids(version)
        at = seed.randrange(len(said))
        what = seed.choice(["edit", "edit", "add", "end", "delete", "delete", "restore", "undo"])
        if what == "edit":
            entry = finding.named(overlay.of(fresh(version.id)), names[at])
            edits.edit(who, dataset, "", names[at], row("q", f"edit {step}"), entry.hash)
            said[at] = f"edit {step}"
        elif what == "add":
            edits.add(who, dataset, "", [row("q", f"add {step}"), row("q", "b")], names[at])
            said[at + 1 : at + 1] = [f"add {step}", "b"]
        elif what == "end":
            edits.add(who, dataset, "", [row("q", f"end {step}")])
            said.append(f"end {step}")
        elif what == "delete" and len(said) > 5:
            edits.delete(who, dataset, "", [names[at]])
            del said[at]
        elif what == "undo" and len(past) > 1:
            edits_undone = acts.undo(who, dataset)
            assert edits_undone.state == "undone"
            past.pop()
            said = list(past[-1])
            continue
        elif what == "restore":
            gone = edits.deleted(fresh(version.id))
            if not gone:
                continue
            edits.restore(who, dataset, "", [gone[0]["id"]])
            said = texts(version)  # where it stands again is checked below
            assert gone[0]["messages"][-1]["content"] in said
        else:
            continue
        past.append(list(said))
        assert texts(version) == said
        assert fresh(version.id).rows == len(said)
        offset = seed.randrange(len(said) + 1)
        assert texts(version, offset, 5) == said[offset : offset + 5]
        over = overlay.of(fresh(version.id))
        for number in (offset, len(said) - 1):
            if number < len(said):
                entry = overlay.entry(over, number)
                assert entry.number == number
                assert finding.named(over, entry.row["id"]) == entry
                assert over.before(entry.key) == number
    assert len(set(ids(version))) == len(said)
    frozen = work.publish(who, dataset)
    assert frozen.status == "published"
    assert texts(frozen) == said
    plain = [
        one for part in frozen.segments for one in segments.read(storage.fetch(part["artefact"]))
    ]
    assert [one["messages"][-1]["content"] for one in plain] == said
    digest = ""
    for one in plain:
        digest = formats.fingerprint(digest, one)
    assert digest == frozen.content_hash


def test_a_restored_row_stands_where_it_stood(db: Session, who: Principal) -> None:
    version = upload(who, many(5))
    name = ids(version)[2]
    edits.delete(who, version.dataset_id, "", [name])
    edits.add(who, version.dataset_id, "", [row("q", "new")], ids(version)[1])
    edits.restore(who, version.dataset_id, "", [name])
    assert texts(version) == ["answer 0", "answer 1", "new", "answer 2", "answer 3", "answer 4"]
    with pytest.raises(NotFound):
        edits.restore(who, version.dataset_id, "", [name])
    made = ids(version)[2]
    edits.delete(who, version.dataset_id, "", [made])
    edits.add(who, version.dataset_id, "", [row("q", "newer")], ids(version)[1])
    edits.restore(who, version.dataset_id, "", [made])  # two rows that were added at one place
    assert sorted(texts(version)[2:4]) == ["new", "newer"]


def test_a_rows_hash_is_that_of_formats(db: Session, who: Principal) -> None:
    version = upload(who, jsonl(row("好", "答"), row("b", 'c "quoted", d')))
    for entry in overlay.entries(overlay.of(version)):
        assert entry.hash == formats.row_hash(entry.row)


def test_a_row_is_found_by_its_id(db: Session, who: Principal) -> None:
    bad: dict[str, Any] = {"messages": []}
    data = jsonl(*[bad if at % 7 == 3 else row("q", f"{at + 1}") for at in range(3000)])
    version = upload(who, data)
    over = overlay.of(version)
    for line in (1, 2, 2999, 1500, 2998):
        found = finding.named(over, f"{version.id}.{line}")
        assert found.row["messages"][-1]["content"] == str(line)
    for wrong in (
        f"{version.id}.4",
        f"{version.id}.3001",
        f"{version.id}.x",
        "dv_x.1",
        "",
        "99999",
    ):
        with pytest.raises(NotFound):
            finding.named(over, wrong)


def test_search_sees_edits(db: Session, who: Principal) -> None:
    version = upload(who, many(20))
    names = ids(version)
    over = overlay.of(version)
    edits.edit(who, version.dataset_id, "", "3", row("q", "answer 7 too"), over_hash(over, 3))
    edits.delete(who, version.dataset_id, "", [names[7]])
    found = overlay.page(fresh(version.id), offset=0, limit=10, q="Answer 7")
    assert [number for number, _ in found.rows] == [3]
    assert not found.has_more


def test_a_search_in_an_edited_draft_is_what_a_scan_finds(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = upload(who, many(300))
    seed = random.Random(4)
    for step in range(60):
        name = ids(version)[seed.randrange(fresh(version.id).rows)]
        if step % 3 == 0:
            seen = finding.named(overlay.of(fresh(version.id)), name).hash
            edits.edit(who, version.dataset_id, "", name, row("q", f"answer {step}"), seen)
        elif step % 3 == 1:
            edits.delete(who, version.dataset_id, "", [name])
        else:
            edits.add(who, version.dataset_id, "", [row("q", f"answer 1{step}")], name)
    found = fresh(version.id)
    expected = [at for at, text in enumerate(texts(version)) if "answer 1" in text]
    whole = overlay.page(found, offset=0, limit=1000, q="Answer 1")
    assert [number for number, _ in whole.rows] == expected
    assert [whole.matches, whole.has_more, whole.previous] == [len(expected), False, None]
    offset: int | None = 0
    seen_pages = []
    while offset is not None:
        page = overlay.page(found, offset=offset, limit=7, q="answer 1")
        assert page.before == 7 * len(seen_pages)
        assert page.previous is None or page.before
        if seen_pages:
            assert page.previous is not None
            again = overlay.page(found, offset=page.previous, limit=7, q="answer 1")
            assert again.rows == seen_pages[-1].rows
        seen_pages.append(page)
        offset = page.next_offset if page.has_more else None
    assert [number for page in seen_pages for number, _ in page.rows] == expected
    last = seen_pages[0].last
    assert last is not None
    assert overlay.page(found, offset=last, limit=7, q="answer 1").rows == seen_pages[-1].rows
    monkeypatch.setattr("app.datasets.rows.search.find", lambda *_: None)  # no facts: rows are read
    assert overlay.page(found, offset=0, limit=1000, q="answer 1").rows == whole.rows


def over_hash(over: overlay.Overlay, number: int) -> str:
    return overlay.entry(over, number).hash


# -- rules -------------------------------------------------------------------------------


def test_rows_are_checked(db: Session, who: Principal) -> None:
    version = upload(who, many(3))
    seen = over_hash(overlay.of(version), 0)
    bad: list[tuple[Any, str]] = [
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
        (5, "row"),
        (row("a", " "), "messages[1].content"),
        (row() | {"more": 1}, "row"),
        (row("\ud800"), "row"),
    ]
    for raw, field in bad:
        with pytest.raises(Invalid) as caught:
            edits.edit(who, version.dataset_id, "", "0", raw, seen)
        assert caught.value.field == field, raw
    with pytest.raises(Invalid) as caught:
        edits.add(who, version.dataset_id, "", [row(), {"messages": 5}])
    assert caught.value.field == "rows[1].messages"
    with pytest.raises(Invalid):
        edits.edit(who, version.dataset_id, "", "0", row("question 0", "answer 0"), seen)
    for count in (0, 1001):
        with pytest.raises(Invalid):
            edits.add(who, version.dataset_id, "", [row()] * count)
    with pytest.raises(Invalid):
        edits.delete(who, version.dataset_id, "", ids(version))
    assert fresh(version.id).edition == 0


def test_the_later_of_two_editors_is_told(db: Session, who: Principal) -> None:
    version = upload(who, many(3))
    seen = over_hash(overlay.of(version), 1)
    name = ids(version)[1]
    edits.edit(who, version.dataset_id, "", name, row("question 1", "first"), seen)
    with pytest.raises(Conflict) as caught:
        edits.edit(who, version.dataset_id, "", name, row("question 1", "second"), seen)
    assert caught.value.code == "row_changed"
    assert caught.value.params == {"who": "Ada", "where": "messages[1].content"}
    with pytest.raises(Conflict):
        edits.delete(who, version.dataset_id, "", [name], seen)
    edits.delete(who, version.dataset_id, "", [name])
    with pytest.raises(Conflict) as caught:
        edits.edit(who, version.dataset_id, "", name, row("a", "b"), seen)
    assert caught.value.code == "row_changed"
    with pytest.raises(NotFound):
        edits.delete(who, version.dataset_id, "", [name])


def test_only_drafts_are_edited(db: Session, who: Principal) -> None:
    version = upload(who, many(3))
    work.publish(who, version.dataset_id)
    seen = over_hash(overlay.of(version), 0)
    with pytest.raises(Conflict, match="new draft"):
        edits.edit(who, version.dataset_id, "", "0", row("a", "b"), seen)
    sample = make_dataset(db, None, status="draft")
    db.commit()
    with pytest.raises(Forbidden):
        edits.delete(who, sample.dataset_id, "", ["x"])


def test_a_full_draft_says_so(db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "MOST_EDITS", 3)
    version = upload(who, many(5))
    edits.delete(who, version.dataset_id, "", ids(version)[:2])
    with pytest.raises(Conflict) as caught:
        edits.add(who, version.dataset_id, "", [row(), row()])
    assert caught.value.code == "too_many_edits"


# -- undo and history --------------------------------------------------------------------


def test_undo_and_redo(db: Session, who: Principal) -> None:
    version = upload(who, many(3))
    dataset = version.dataset_id
    with pytest.raises(Conflict):
        acts.undo(who, dataset)
    edits.delete(who, dataset, "", ids(version)[:1])
    edits.add(who, dataset, "", [row("q", "new")])
    assert texts(version) == ["answer 1", "answer 2", "new"]
    acts.undo(who, dataset)
    acts.undo(who, dataset)
    assert texts(version) == ["answer 0", "answer 1", "answer 2"]
    acts.redo(who, dataset)
    assert texts(version) == ["answer 1", "answer 2"]
    edits.add(who, dataset, "", [row("q", "other")])
    with pytest.raises(Conflict):
        acts.redo(who, dataset)  # what was undone is left behind
    assert texts(version) == ["answer 1", "answer 2", "other"]
    assert fresh(version.id).rows == 3
    told = [(act.what, act.state, name) for act, name in acts.history(db, version.id)]
    assert told == [("add", "done", "Ada"), ("add", "dropped", "Ada"), ("delete", "done", "Ada")]
    one = acts.edits_of(db, acts.history(db, version.id)[2][0].id)[0]
    assert orjson.loads(one.before or b"")["messages"][1]["content"] == "answer 0"
    assert one.after is None


# -- speed -------------------------------------------------------------------------------


def test_pages_of_an_edited_draft_are_quick(db: Session, who: Principal) -> None:
    version = upload(who, many(20_000))
    seed = random.Random(1)
    places = seed.sample(range(1, 20_001), 3000)
    edits.delete(who, version.dataset_id, "", [f"{version.id}.{at}" for at in places[:1000]])
    rewriting.replace(who, version.dataset_id, "", Wanted("answer 7", "reply 7"))
    found = fresh(version.id)
    overlay.page(found, offset=0, limit=50)
    took = []
    for _ in range(20):
        offset = seed.randrange(18_000)
        started = time.process_time()
        overlay.page(found, offset=offset, limit=50)
        took.append(time.process_time() - started)
    assert sorted(took)[10] < 0.02
