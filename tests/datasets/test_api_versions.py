"""The JSON of datasets: looking, publishing, versions, deleting, whose it is."""

import time
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets import work
from app.datasets.tables import DatasetEvent
from tests.conftest import Client
from tests.datasets.files import BAD, jsonl, many, row, stored
from tests.datasets.test_api import URL, counts, upload
from tests.datasets.test_trash import aged
from tests.factories import make_dataset, make_key, make_membership, make_user, make_workspace

# -- looking -----------------------------------------------------------------------------


def test_list_and_get(api: Client, db: Session) -> None:
    first = upload(api, many(1), name="one").json()
    second = upload(api, many(2), name="Two_%").json()
    make_dataset(db, make_workspace(db))
    sample = make_dataset(db, None, rows=5)
    db.commit()
    listed = api.get(URL).json()
    assert [one["id"] for one in listed["data"]] == [second["id"], first["id"], sample.dataset_id]
    assert listed["data"][2]["sample"] is True
    assert listed["has_more"] is False
    page = api.get(f"{URL}?limit=1&offset=1").json()
    assert [page["data"][0]["id"], page["has_more"]] == [first["id"], True]
    assert [one["name"] for one in api.get(f"{URL}?q=two_%25").json()["data"]] == ["Two_%"]
    assert len(api.get(f"{URL}?status=published").json()["data"]) == 1
    shown = api.get(f"{URL}/{first['id']}").json()
    assert shown == first


def test_rows_are_paged(api: Client) -> None:
    made = upload(api, many(2500)).json()
    rows = f"{URL}/{made['id']}/rows"
    page = api.get(f"{rows}?offset=1990&limit=20").json()
    assert [one["index"] for one in page["data"]] == list(range(1990, 2010))
    assert page["data"][15]["messages"][0]["content"] == "question 2005"
    assert page["data"][15]["id"] == f"{made['version_id']}.2006"
    assert [page["has_more"], page["next_offset"], page["total"]] == [True, 2010, 2500]
    last = api.get(f"{rows}?offset=2490").json()
    assert [len(last["data"]), last["has_more"]] == [10, False]
    assert api.get(f"{rows}?offset=99999").json()["data"] == []
    for bad in ("offset=-1", "limit=0", "limit=100000", "offset=x"):
        assert api.get(f"{rows}?{bad}").status_code == 422


def test_search(api: Client) -> None:
    texts = ["Größe", "GRÖSSE", 'a "quoted" one', "back\\slash", "new\nline", "role", "好评"]
    made = upload(api, jsonl(*(row(text, "x") for text in texts))).json()

    def hits(q: str) -> list[int]:
        answer = api.get(f"{URL}/{made['id']}/rows", params={"q": q})
        assert answer.status_code == 200
        return [one["index"] for one in answer.json()["data"]]

    assert hits("größe") == [0, 1]  # as Unicode folds it
    assert hits('"QUOTED"') == [2]
    assert hits("back\\s") == [3]
    assert hits("new\nline") == [4]
    assert hits("role") == [5]  # a message that says it, not every row's field
    assert hits("好评") == [6]
    assert hits(made["version_id"]) == []
    assert hits("\ud800".encode("utf-8", "surrogatepass").decode("latin-1")) == []


def test_a_search_goes_on_where_it_stopped(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = upload(api, many(1500)).json()
    rows = f"{URL}/{made['id']}/rows"
    first = api.get(f"{rows}?q=answer 7&limit=5").json()
    assert [one["index"] for one in first["data"]] == [7, 70, 71, 72, 73]
    second = api.get(f"{rows}?q=answer 7&limit=5&offset={first['next_offset']}").json()
    assert [one["index"] for one in second["data"]] == [74, 75, 76, 77, 78]
    monkeypatch.setattr("app.datasets.rows.browse.SCAN_SECONDS", 0)
    seen, offset, more = [], 0, True
    while more:
        page = api.get(f"{rows}?q=answer 7&offset={offset}").json()
        seen += [one["index"] for one in page["data"]]
        offset, more = page["next_offset"], page["has_more"]
    assert seen == [at for at in range(1500) if str(at).startswith("7")]


def test_a_page_of_enormous_rows_is_cut_short(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.datasets.rows.browse.PAGE_BYTES", 5000)
    made = upload(api, jsonl(*(row("x" * 2000) for _ in range(10)))).json()
    page = api.get(f"{URL}/{made['id']}/rows").json()
    assert [len(page["data"]), page["next_offset"], page["has_more"]] == [3, 3, True]


def test_download_is_what_an_upload_takes(api: Client) -> None:
    made = upload(api, jsonl(row("a\n"), row("b,c")), name="评论 <b>").json()
    answer = api.get(f"{URL}/{made['id']}/download")
    assert answer.content == jsonl(row("a\n"), row("b,c")).replace(b'": ', b'":').replace(
        b', "', b',"'
    ).replace(b"}, {", b"},{")
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["content-disposition"].startswith('attachment; filename="')
    assert "<" not in answer.headers["content-disposition"]
    again = upload(api, answer.content).json()
    assert [again["rows"], again["errors"], again["warnings"]] == [2, [], []]


# -- publishing, versions, deleting ------------------------------------------------------


def test_publish(api: Client, db: Session) -> None:
    made = upload(api, many(1200)).json()
    answer = api.post(f"{URL}/{made['id']}/publish")
    assert answer.status_code == 200
    body = answer.json()
    assert [body["status"], body["rows"]] == ["published", 1200]
    assert len(body["content_hash"]) == 64
    assert body["published_at"]
    events = db.scalars(select(DatasetEvent).order_by(DatasetEvent.id)).all()
    assert [(one.old, one.new) for one in events] == [
        (None, "validating"),
        ("validating", "draft"),
        ("draft", "publishing"),
        ("publishing", "published"),
    ]
    assert [one.user_id for one in events] == [api.user.id, None, api.user.id, None]
    again = api.post(f"{URL}/{made['id']}/publish")
    assert [again.status_code, again.json()["code"]] == [409, "not_draft"]


def test_the_same_rows_have_the_same_hash(api: Client) -> None:
    hashes = []
    for data in (many(3), b"\n" + many(3).replace(b"\n", b"\r\n"), many(4)):
        made = upload(api, data).json()
        hashes.append(api.post(f"{URL}/{made['id']}/publish").json()["content_hash"])
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_bad_rows_are_left_out_only_when_that_is_said(api: Client) -> None:
    made = upload(api, BAD).json()
    answer = api.post(f"{URL}/{made['id']}/publish")
    assert [answer.status_code, answer.json()["code"]] == [409, "invalid_rows"]
    assert "2 (line 2, 4)" in answer.json()["detail"]
    assert api.get(f"{URL}/{made['id']}").json()["status"] == "draft"
    answer = api.post(f"{URL}/{made['id']}/publish", json={"skip_invalid": True})
    assert [answer.json()["status"], answer.json()["rows"]] == ["published", 2]
    other = upload(api, BAD).json()
    assert api.post(f"{URL}/{other['id']}/publish?skip_invalid=true").status_code == 200


def test_a_new_version(api: Client) -> None:
    made = upload(api, BAD).json()
    answer = api.post(f"{URL}/{made['id']}/versions", files={"file": ("b.jsonl", many(4))})
    assert answer.status_code == 201
    assert [answer.json()["version"], answer.json()["rows"]] == [2, 4]
    assert answer.json()["id"] == made["id"]
    assert api.get(f"{URL}/{made['id']}").json()["version"] == 2
    assert api.get(f"{URL}/{made['id']}?version=1").json()["error_count"] == 2
    assert api.get(f"{URL}/{made['id']}/rows?version=1").json()["total"] == 2
    assert api.get(f"{URL}/{made['id']}/rows?version={made['version_id']}").json()["total"] == 2
    for unknown in ("3", "0", "dv_x", "9" * 30, "²"):
        assert api.get(f"{URL}/{made['id']}", params={"version": unknown}).status_code == 404
    assert len(api.get(URL).json()["data"]) == 1


def test_a_refused_version_leaves_the_dataset(api: Client, db: Session) -> None:
    made = upload(api, many(1)).json()
    before = stored()
    answer = api.post(f"{URL}/{made['id']}/versions", files={"file": ("b", b"nonsense")})
    assert answer.status_code == 422
    assert counts(db)[:2] == [1, 1]
    assert stored() == before


def test_delete(api: Client, db: Session) -> None:
    made = upload(api, BAD).json()
    assert api.delete(f"{URL}/{made['id']}").status_code == 204
    assert api.get(f"{URL}/{made['id']}").status_code == 404
    assert api.get(f"{URL}/{made['id']}/rows").status_code == 404
    assert api.delete(f"{URL}/{made['id']}").status_code == 404
    assert api.get(URL).json()["data"] == []
    aged(db, made["id"], 8)  # until then it can be brought back
    work.clear(made["id"])  # what the nudge asks a worker to do
    assert stored() == []


# -- whose it is -------------------------------------------------------------------------

CALLS = [
    ("GET", ""),
    ("GET", "/rows"),
    ("GET", "/errors"),
    ("GET", "/download"),
    ("POST", "/publish"),
    ("DELETE", ""),
]


def test_another_workspaces_dataset_is_not_there(api: Client, db: Session) -> None:
    foreign = make_dataset(db, make_workspace(db), status="draft")
    db.commit()
    for method, path in CALLS:
        answer = api.request(method, f"{URL}/{foreign.dataset_id}{path}")
        assert answer.status_code == 404, path
    answer = api.post(f"{URL}/{foreign.dataset_id}/versions", files={"file": ("b", many(1))})
    assert answer.status_code == 404
    assert stored() == []
    mine = upload(api, many(1)).json()
    asked = api.get(f"{URL}/{mine['id']}/rows?version={foreign.id}")
    assert asked.status_code == 404


def test_samples_are_read_only(api: Client, db: Session) -> None:
    sample = make_dataset(db, None, status="draft")
    db.commit()
    url = f"{URL}/{sample.dataset_id}"
    assert api.get(url).json()["sample"] is True
    assert api.post(f"{url}/publish").status_code == 403
    assert api.delete(url).status_code == 403
    assert api.post(f"{url}/versions", files={"file": ("b", many(1))}).status_code == 403
    assert stored() == []


def test_a_viewer_reads_and_a_key_needs_its_scope(api: Client, db: Session) -> None:
    made = upload(api, many(1)).json()
    viewer = make_user(db)
    make_membership(db, api.workspace, viewer, "viewer")
    keys = {
        "viewer": make_key(db, api.workspace, viewer),
        "reader": make_key(db, api.workspace, api.user, scopes=["datasets:read"]),
        "other": make_key(db, api.workspace, api.user, scopes=["jobs:write"]),
    }
    db.commit()
    for name, reads in (("viewer", 200), ("reader", 200), ("other", 403)):
        api.headers["authorization"] = f"Bearer {keys[name]}"
        assert api.get(f"{URL}/{made['id']}/rows").status_code == reads
        assert upload(api, many(1)).status_code == 403
        assert api.delete(f"{URL}/{made['id']}").status_code == 403


def test_rows_whose_files_are_gone(api: Client, db: Session) -> None:
    version = make_dataset(db, api.workspace)
    db.commit()
    assert api.get(f"{URL}/{version.dataset_id}/rows").status_code == 404


@pytest.mark.slow
def test_many_rows(api: Client, tmp_path: Path) -> None:
    """Validated by the task in stretches, and a page near the end is as quick as the first."""
    body = jsonl(row("What is this? " * 10, "It is a row. " * 10))
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        for _ in range(150):
            file.write(body * 1000)
    with path.open("rb") as file:
        made = api.post(URL, files={"file": ("big.jsonl", file)}).json()
    assert made["status"] == "validating"
    while api.get(f"{URL}/{made['id']}").json()["status"] == "validating":
        work.validate_version(made["version_id"])
    api.get(f"{URL}/{made['id']}/rows?offset=140000")
    started = time.perf_counter()
    page = api.get(f"{URL}/{made['id']}/rows?offset=140123&limit=50").json()
    assert time.perf_counter() - started < 0.1
    assert [page["data"][0]["index"], page["total"]] == [140123, 150_000]
