"""Comparing versions row by row, and texts word by word."""

import random
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.datasets import work
from app.datasets.drafts import acts, comparing, differing, edits, finding, overlay, redraft
from app.datasets.drafts.comparing import Difference
from app.datasets.tables import DatasetComparison, DatasetVersion
from app.errors import Conflict
from tests.datasets.drafts.test_drafts import fresh, ids, over_hash, upload
from tests.datasets.files import jsonl, many, row, stored

# -- words -------------------------------------------------------------------------------


def test_words_of_two_languages() -> None:
    told = differing.words("今天天气很好, hello world", "今天的天气不好, hello big world")
    assert told == [
        ("same", "今天"),
        ("new", "的"),
        ("same", "天气"),
        ("old", "很"),
        ("new", "不"),
        ("same", "好, hello"),
        ("new", " big"),
        ("same", " world"),
    ]
    assert differing.words("", "new") == [("new", "new")]
    assert differing.words("a b", "a b") == [("same", "a b")]
    assert differing.words("", "") == []


def longest(left: list[str], right: list[str]) -> int:
    """The length of the longest common subsequence, the slow way."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for x, one in enumerate(left):
        for y, other in enumerate(right):
            best = max(table[x][y + 1], table[x + 1][y])
            table[x + 1][y + 1] = table[x][y] + 1 if one == other else best
    return table[-1][-1]


def test_matches_are_the_most_there_are() -> None:
    seed = random.Random(5)
    for _ in range(500):
        left = seed.choices("abc", k=seed.randrange(10))
        right = seed.choices("abc", k=seed.randrange(10))
        found = differing.matches(left, right)
        assert all(left[x] == right[y] for x, y in found)
        assert all(a < c and b < d for (a, b), (c, d) in pairwise(found))
        assert len(found) == longest(left, right)
        told = differing.words("".join(left), "".join(right))
        assert "".join(text for kind, text in told if kind != "new") == "".join(left)
        assert "".join(text for kind, text in told if kind != "old") == "".join(right)


def test_hostile_texts_cost_little() -> None:
    seed = random.Random(5)
    left, right = ("".join(seed.choices("的了 a", k=300_000)) for _ in range(2))
    told = differing.words(left, right)
    assert "".join(text for kind, text in told if kind != "new") == left
    assert "".join(text for kind, text in told if kind != "old") == right


def test_rows_turn_by_turn() -> None:
    def turns(*texts: str) -> dict[str, Any]:
        roles = ["user", "assistant"] * len(texts)
        return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}

    told = differing.rows(turns("a", "b one", "c", "d"), turns("a", "b two", "c", "d", "e", "f"))
    assert [(one.change, one.path) for one in told] == [
        ("same", "messages[0]"),
        ("changed", "messages[1]"),
        ("same", "messages[2]"),
        ("same", "messages[3]"),
        ("added", "messages[4]"),
        ("added", "messages[5]"),
    ]
    assert told[1].fields == [("content", [("same", "b "), ("old", "one"), ("new", "two")])]
    added = differing.rows(None, turns("a", "b"))
    assert [(one.change, one.label) for one in added] == [("added", "user"), ("added", "assistant")]
    answer = {"role": "assistant", "content": "x", "weight": 0.5}
    kto = turns("a", "b") | {"label": True, "tools": [{"type": "function"}]}
    assert [one.label for one in differing.rows(kto, kto | {"label": False})][-1] == "label"
    pair = {"messages": [], "chosen": answer, "rejected": answer | {"content": "y"}}
    told = differing.rows(pair, pair | {"chosen": answer | {"weight": 1.0}})
    assert [(one.change, one.label) for one in told] == [
        ("changed", "chosen"),
        ("same", "rejected"),
    ]
    assert differing.rows({"text": "a b"}, {"text": "a c"})[0].change == "changed"


# -- versions ----------------------------------------------------------------------------


def found(old: DatasetVersion, new: DatasetVersion) -> tuple[dict[str, Any], list[Difference]]:
    one = comparing.compare(fresh(old.id), fresh(new.id))
    assert one.state == "done"
    listed = comparing.differences(one, limit=1000)
    for change in comparing.CHANGES:
        kind = [each for each in listed if each.change == change]
        assert comparing.differences(one, change=change, limit=1000) == kind
        assert comparing.differences(one, change=change, offset=1, limit=2) == kind[1:3]
        assert one.counts[change] == len(kind)
    assert comparing.differences(one, offset=2, limit=3) == listed[2:5]
    return one.counts, listed


def test_a_draft_and_what_it_was_made_of(db: Session, who: Principal) -> None:
    first = upload(who, many(3000))
    work.publish(who, first.dataset_id)
    draft = redraft.begin(who, first.dataset_id)
    counts, listed = found(first, draft)
    assert [counts, listed] == [{"added": 0, "removed": 0, "changed": 0, "same": 3000}, []]
    name = ids(first)[2000]
    edits.edit(who, first.dataset_id, "", name, row("a", "b"), over_hash(overlay.of(draft), 2000))
    edits.delete(who, first.dataset_id, "", [ids(first)[5]])
    edits.add(who, first.dataset_id, "", [row("new", "row")], ids(first)[9])
    edits.add(who, first.dataset_id, "", [row("last", "row")])
    expected = [
        Difference("removed", 5, None),
        Difference("added", None, 9),
        Difference("changed", 2000, 2000),
        Difference("added", None, 3000),
    ]
    counts, listed = found(first, draft)
    assert listed == expected
    assert counts == {"added": 2, "removed": 1, "changed": 1, "same": 2998}
    back, turned = found(draft, first)
    assert back == {"added": 1, "removed": 2, "changed": 1, "same": 2998}
    assert {(one.old, one.new) for one in turned} == {(one.new, one.old) for one in expected}
    work.publish(who, first.dataset_id)  # other segments, the same rows
    assert found(first, draft) == (counts, expected)


def test_uploads_are_joined_by_what_rows_say(db: Session, who: Principal) -> None:
    first = upload(who, jsonl(row("a"), row("b"), row("b"), row("c"), row("d")))
    second = upload(who, jsonl(row("d"), row("x"), row("b"), row("c")), first.dataset_id)
    counts, listed = found(first, second)
    assert counts == {"added": 1, "removed": 2, "changed": 0, "same": 3}
    assert listed == [
        Difference("removed", 0, None),
        Difference("added", None, 1),
        Difference("removed", 2, None),
    ]


def test_random_edits_are_found(db: Session, who: Principal) -> None:
    first = upload(who, many(300))
    work.publish(who, first.dataset_id)
    draft = redraft.begin(who, first.dataset_id)
    seed = random.Random(2)
    was = {entry.row["id"]: entry for entry in overlay.entries(overlay.of(first))}
    for step in range(60):
        name = seed.choice(ids(draft))
        if step % 3 == 0:
            seen = finding.named(overlay.of(fresh(draft.id)), name).hash
            edits.edit(who, first.dataset_id, "", name, row("e", str(step)), seen)
        elif step % 3 == 1:
            edits.delete(who, first.dataset_id, "", [name])
        else:
            edits.add(who, first.dataset_id, "", [row("n", str(step))], name)
        if step == 40:
            acts.undo(who, first.dataset_id)
    now = {entry.row["id"]: entry for entry in overlay.entries(overlay.of(fresh(draft.id)))}
    expected: set[tuple[str, int | None, int | None]]
    expected = {("added", None, now[name].number) for name in now.keys() - was.keys()}
    expected |= {("removed", was[name].number, None) for name in was.keys() - now.keys()}
    expected |= {
        ("changed", was[name].number, now[name].number)
        for name in was.keys() & now.keys()
        if was[name].line != now[name].line
    }
    assert {(one.change, one.old, one.new) for one in found(first, draft)[1]} == expected


def test_a_long_comparison_goes_on_without_the_reader(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = upload(who, many(3000))
    second = upload(who, many(2900), first.dataset_id)
    monkeypatch.setattr(comparing, "INLINE_SECONDS", -1)
    one = comparing.compare(first, second)
    assert [one.state, comparing.compare(first, second).id] == ["running", one.id]
    comparing.resend(db)
    assert db.info.pop("outbox") == [("workers.compare_versions", (one.id,), "control")]
    db.execute(update(DatasetComparison).values(attempts=comparing.MAX_ATTEMPTS - 1))
    db.commit()
    comparing.compare_versions(one.id)
    done = comparing.compare(first, second)
    assert [done.state, done.counts["removed"]] == ["done", 100]
    comparing.compare_versions(one.id)  # a nudge too many
    assert len([path for path in stored() if path.startswith("comparisons/")]) == 1


def test_what_is_outdated_is_forgotten(db: Session, who: Principal) -> None:
    first = upload(who, many(5))
    work.publish(who, first.dataset_id)
    draft = redraft.begin(who, first.dataset_id)
    for _ in range(3):
        edits.add(who, first.dataset_id, "", [row()])
        found(first, draft)
    assert len([path for path in stored() if path.startswith("comparisons/")]) == 1
    redraft.discard(who, first.dataset_id)
    assert not [path for path in stored() if path.startswith("comparisons/")]
    failed = upload(who, many(5), first.dataset_id)
    db.execute(update(DatasetVersion).where(DatasetVersion.id == failed.id).values(status="failed"))
    db.commit()
    with pytest.raises(Conflict):
        comparing.compare(first, fresh(failed.id))
