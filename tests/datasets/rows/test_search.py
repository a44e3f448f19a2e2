"""Finding rows by text, role, length, language and flag: over the facts, and without them."""

import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.datasets import service, work
from app.datasets.intake.upload import scratch
from app.datasets.rows import browse, facts, search, segments
from app.datasets.tables import DatasetVersion
from app.datasets.validation import checking, mapping, matching, problems
from app.errors import Conflict, Invalid
from tests.conftest import Client
from tests.datasets.files import jsonl, row
from tests.datasets.test_work import fresh, nudges, upload
from tests.factories import make_dataset

WORDS = ["Straße", "好评", "bad", "Bad data", "问题", "x\ny", '"q"', "a\\b", "13812345678", "",
         "ﬁre", "Ünï", "ＡＢＣ", "é" * 400, "word " * 90]  # fmt: skip
FILTERS: list[dict[str, Any]] = [
    {"q": "strasse"}, {"q": "BAD"}, {"q": "好"}, {"q": "x\ny"}, {"q": '"Q"'}, {"q": "\\b"},
    {"q": "fire"}, {"q": "ünÏ"}, {"q": "nothing is like this"}, {"q": "%"}, {"q": "' OR 1=1 --"},
    {"role": "system"}, {"role": "tool"}, {"min_length": 400}, {"max_length": 20},
    {"min_length": 5, "max_length": 60, "q": "a"}, {"language": "zh"}, {"language": "other"},
    {"flag": "personal"}, {"flag": "empty"}, {"flag": "odd"}, {"flag": "mojibake"},
    {"q": "bad", "role": "system", "language": "en"},
]  # fmt: skip


def rows(seed: int, count: int) -> list[dict[str, Any]]:
    pick = random.Random(seed)
    made = []
    for at in range(count):
        one = row(f"{pick.choice(WORDS)} {pick.choice(WORDS)} {at}", pick.choice(WORDS) or "x")
        if pick.random() < 0.3:
            one["messages"].insert(0, {"role": "system", "content": pick.choice(WORDS)})
        made.append(one)
    return made


def numbers(version: DatasetVersion, limit: int = 7, **filters: Any) -> list[int]:
    """All that a search finds, page by page."""
    seen: list[int] = []
    offset, more = 0, True
    while more:
        page = browse.page(version, offset=offset, limit=limit, **filters)
        seen += [number for number, _ in page.rows]
        offset, more = page.next_offset, page.has_more
    return seen


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("few", [0, 10_000])
def test_both_ways_find_the_same(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any], few: int
) -> None:
    """With Parquet or JSON beside the rows, and with neither."""
    monkeypatch.setattr(facts, "FEW", few)
    monkeypatch.setattr("app.datasets.validation.validate.STEP_BYTES", 20_000)
    monkeypatch.setattr("app.datasets.validation.validate.BATCH", 10_000)
    made = work.take(who, upload(jsonl(*rows(1, 250))))
    assert len(made.segments) > 1
    page = browse.page(made, offset=0, limit=7, **filters)
    found = numbers(made, **filters)
    assert page.matches == len(found)
    monkeypatch.setattr(search, "find", lambda *_: None)
    assert numbers(made, **filters) == found
    assert browse.page(made, offset=0, limit=7, **filters).matches is None


def test_pages_of_a_search(db: Session, who: Principal) -> None:
    made = work.take(who, upload(jsonl(*(row(f"n{at % 10}", "x") for at in range(1000)))))
    page = browse.page(made, offset=0, limit=30, q="N7")
    assert [number for number, _ in page.rows] == list(range(7, 300, 10))
    assert (page.matches, page.before, page.previous, page.last) == (100, 0, None, 907)
    second = browse.page(made, offset=page.next_offset, limit=30, q="n7")
    assert [second.rows[0][0], second.before, second.previous] == [307, 30, 7]
    last = browse.page(made, offset=second.last or 0, limit=30, q="n7")
    assert [len(last.rows), last.has_more, last.previous] == [10, False, 607]
    beyond = browse.page(made, offset=5000, limit=30, q="n7")
    assert [beyond.rows, beyond.has_more] == [[], False]


def test_what_no_row_can_have_is_refused(db: Session, who: Principal) -> None:
    made = work.take(who, upload(jsonl(row())))
    for wrong in ({"role": "x"}, {"language": "fr"}, {"flag": "x"}):
        with pytest.raises(Invalid):
            browse.page(made, offset=0, limit=1, **wrong)


def test_duplicates(db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    same = orjson.dumps(row("same", "x"))
    spaced = b'{"messages" : [ {"content": "same", "role":"user"},{"role":"assistant","content":"\\u0078"} ]}'
    lines = [same, b"nonsense", jsonl(row("other")).strip(), spaced, b"", same]
    monkeypatch.setattr("app.datasets.validation.validate.STEP_BYTES", 1)
    monkeypatch.setattr("app.datasets.validation.validate.BATCH", 150)
    made = work.take(who, upload(b"\n".join(lines)))
    assert [made.rows, made.error_count, made.warning_count] == [4, 1, 2]
    issues = service.issues(db, made.id, level="warning")
    assert [(one.line, one.code, one.params["line"]) for one in issues] == [
        (4, "row.duplicate", 1),
        (6, "row.duplicate", 1),
    ]
    assert numbers(made, flag="duplicate") == [2, 3]
    assert numbers(made, flag="duplicate", q="other") == []


def test_listed_are_the_first_and_counted_are_all(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "LISTED", 5)
    monkeypatch.setattr(matching, "LISTED", 5)
    monkeypatch.setattr(matching, "BLOCK", 5)
    made = work.take(who, upload(jsonl(*(row("13812345678", "x") for _ in range(20)))))
    assert made.checks["counts"] == {"personal.phone": 20, "row.duplicate": 19}
    assert made.warning_count == 39
    assert [one.line for one in service.issues(db, made.id)] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


def test_a_version_that_was_made_otherwise_is_looked_at(db: Session, who: Principal) -> None:
    directory = scratch()

    lines = [
        {"id": f"dv_x.{at}", **row("13812345678" if at == 3 else "same", "x")} for at in range(5)
    ]
    written = segments.write(lines, directory)
    storage.move(directory, written.artefact)
    part = {"artefact": written.artefact, "rows": 5}
    made = make_dataset(db, None, rows=5, segments=[part], recipe={"made": "cleaning"})
    made.dataset.workspace_id = who.workspace_id
    db.commit()
    assert numbers(made, q="138") == [3]  # by going through the rows
    assert browse.page(made, offset=0, limit=5, q="138").matches is None
    with pytest.raises(Conflict):
        browse.page(made, offset=0, limit=5, flag="duplicate")
    with pytest.raises(Conflict):
        matching.overlap(made, made)
    assert nudges(db) == [("workers.check_dataset", made.id)]
    for _ in range(2):
        checking.check_version(made.id)
    found = fresh(db, made.id)
    assert nudges(db) == []
    assert browse.page(found, offset=0, limit=5, q="138").matches == 1
    assert numbers(found, flag="duplicate") == [1, 2, 4]
    assert [(one.line, one.code) for one in service.issues(db, found.id)] == [
        (2, "row.duplicate"), (3, "row.duplicate"), (4, "personal.phone"), (5, "row.duplicate")
    ]  # fmt: skip
    found.segments = [part, part]
    found.rows = 10
    db.commit()
    checking.check_version(made.id)
    again = fresh(db, made.id)
    assert again.warning_count == 2 + 8
    assert len(service.issues(db, made.id)) == 10


def test_what_cannot_be_looked_at_is_given_up(db: Session, who: Principal) -> None:
    made = make_dataset(db, None)
    db.commit()
    for _ in range(checking.TRIES + 1):
        checking.check_version(made.id)
        one = fresh(db, made.id)
        one.checks = {**one.checks, "claimed": 0.0}
        db.commit()
    assert nudges(db) == []
    assert fresh(db, made.id).checks["failed"]


def test_overlap(db: Session, who: Principal) -> None:
    train = work.take(who, upload(jsonl(*(row(f"q{at}", f"a{at}") for at in range(50)))))
    mine = [row("q3", "a3"), row("q4", "else"), row("new", "a5")]
    held = work.take(who, upload(jsonl(*mine)))
    found = matching.overlap(held, train)
    assert found == matching.Overlap(1, 2, [(0, 3), (1, 4)])


def test_several_files_keep_their_own_lines(
    db: Session, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = upload(b"")
    (made.directory / "body").write_bytes(jsonl(row("a"), 5, row("13812345678")))
    (made.directory / "body.1").write_bytes(
        jsonl({"instruction": "b", "output": "c"}, row("a"), {"text": "t"})
    )
    made.files = [{"name": "one.jsonl", "bytes": 1}, {"name": "two.jsonl", "bytes": 1}]
    found = work.take(who, made)
    assert [found.rows, found.format, found.kind] == [3, "messages", "sft"]
    assert [(one["name"], one["rows"], one["first"]) for one in found.files] == [
        ("one.jsonl", 2, 0), ("two.jsonl", 1, 3)
    ]  # fmt: skip
    assert [(one.level, one.file, one.line, one.code) for one in service.issues(db, found.id)] == [
        ("error", "one.jsonl", 2, "row.type"),
        ("error", "two.jsonl", 2, "row.other_format"),
        ("error", "two.jsonl", 3, "row.other_format"),
        ("warning", "one.jsonl", 3, "personal.phone"),
    ]
    ids = [one["id"].split(".")[1] for _, one in browse.page(found, offset=0, limit=9).rows]
    assert ids == ["1", "3", "4"]


def test_columns_without_a_known_name_wait_for_the_user(db: Session, who: Principal) -> None:

    made = work.take(who, upload(jsonl(*({"问": f"q{at}", "答": "a"} for at in range(3)))))
    assert made.status == "mapping"
    chosen = {"format": "alpaca", "columns": {"instruction": "问", "output": "答"}}
    with_mapping = mapping.submit(db, who, made.dataset_id, "", chosen)
    db.commit()
    for _ in range(5):
        work.validate_version(with_mapping.id)
    found = fresh(db, made.id)
    assert [found.status, found.rows, found.format] == ["draft", 3, "alpaca"]


# -- over HTTP ---------------------------------------------------------------------------


def test_filters_over_http(api: Client, client: Client, db: Session) -> None:
    many = [
        row(f"question {at}", "电话 13812345678" if at % 10 == 0 else "ok") for at in range(300)
    ]
    sent = api.post("/api/v1/datasets", files={"file": ("a.jsonl", jsonl(*many))})
    made = sent.json()
    url = f"/api/v1/datasets/{made['id']}"
    page = api.get(
        f"{url}/rows", params={"flag": "personal", "limit": 5, "language": "mixed"}
    ).json()
    assert [one["index"] for one in page["data"]] == [0, 10, 20, 30, 40]
    assert [page["matches"], page["total"], page["next_offset"]] == [30, 300, 41]
    assert api.get(f"{url}/rows?row=250&limit=1").json()["data"][0]["index"] == 250
    assert api.get(f"{url}/rows?flag=nonsense").status_code == 422
    errors = api.get(f"{url}/errors", params={"code": "personal.phone", "limit": 3}).json()
    assert [errors["total"], errors["has_more"], len(errors["data"])] == [30, True, 3]
    assert errors["counts"] == [
        {"level": "warning", "code": "personal.phone", "count": 30, "listed": 30}
    ]
    assert api.get(f"{url}/errors", params={"q": "11"}).json()["total"] == 1
    assert api.get(f"{url}/errors?level=error").json()["total"] == 0
    assert api.get(f"{url}/errors?level=x").status_code == 422
    table = api.get(f"{url}/errors/download?format=csv")
    assert table.headers["content-type"].startswith("text/csv")
    lines = table.content.decode("utf-8-sig").splitlines()
    assert lines[0] == "level,file,line,path,code,message"
    assert len(lines) == 31
    listed = api.get(f"{url}/errors/download?code=personal.phone&q=11").content.splitlines()
    assert [orjson.loads(one)["line"] for one in listed] == [11]
    assert api.get(f"{url}/overlap?with={made['id']}").status_code == 409  # it is a draft
    api.post(f"{url}/publish")
    assert api.get(f"{url}/overlap?with={made['id']}").json()["rows"] == 300


def test_a_formula_in_a_csv_is_text() -> None:

    assert problems.line(["=cmd|' /C calc'!A0", "-1", 5]) == b"'=cmd|' /C calc'!A0,'-1,5\r\n"


def test_facts_of_other_kinds(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "Ask"}]
    answer = {"role": "assistant", "content": "Yes"}
    preference = {"id": "a.1", "messages": prompt, "chosen": answer, "rejected": answer}
    assert facts.roles(preference) == facts.ROLES["user"] | facts.ROLES["assistant"]
    assert facts.searched(preference) == "Ask\nYes\nYes"
    assert browse.summary(preference) == ("Ask", "Yes")
    assert facts.searched({"id": "a.1", "text": "T"}) == "T"
    assert facts.roles({"text": "T"}) == 0
    assert browse.summary({"text": "x" * 200}) == ("x" * 160, "x" * 40)
