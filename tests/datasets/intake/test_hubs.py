"""Imports from the two hubs: what is listed, chosen, fetched and recorded."""

import gzip
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import hubs as hub_api
from app.config import settings
from app.datasets.intake import hubs, importing
from app.datasets.tables import DatasetVersion
from tests.conftest import Client
from tests.datasets.files import many
from tests.datasets.intake.importers import SLOW, URL, begin, failed, finish, fresh
from tests.datasets.test_routes import one as one_of
from tests.datasets.test_routes import page, test_id
from tests.stand_in_hub import COMMIT, OLDER, Hub


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_the_files_of_a_repository(api: Client, hub: Hub, name: str) -> None:
    found = api.get(f"{URL}/import/files?hub={name}&repository=lin/reviews").json()
    assert found["commit"] == COMMIT
    assert [(one["path"], one["split"]) for one in found["files"]] == [
        ("data/test.jsonl", "test"),
        ("data/train.jsonl", "train"),
        ("extra.json", ""),
    ]
    assert found["files"][1]["size"] == len(many(30))


def test_a_listing_that_leaves_folders_out_is_walked(hub: Hub) -> None:
    hub.recursive = False
    hub.files = {f"a/b{n}/c/{m}.jsonl": many(1) for n in range(3) for m in range(3)}
    hub.files["top.csv"] = b"x"
    found = hubs.look("modelscope", "lin/reviews")
    assert [one.path for one in found.files] == sorted(hub.files)


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_repository_is_imported_at_its_commit(
    api: Client, db: Session, hub: Hub, name: str
) -> None:
    made = begin(api, name="", hub=name, repository="lin/reviews", files=["data/train.jsonl"])
    assert made["name"] == "reviews"
    found = finish(db, made["version_id"])
    assert [found.status, found.rows, found.bytes] == ["draft", 30, len(many(30))]
    assert found.recipe == {
        "made": "import",
        "from": name,
        "repository": "lin/reviews",
        "revision": "",
        "commit": COMMIT,
        "files": ["data/train.jsonl"],
    }
    assert found.files[0]["name"] == "data/train.jsonl"
    asked = [path for path, _ in hub.seen if "train.jsonl" in path]
    assert asked
    assert all((COMMIT if name == "huggingface" else OLDER) in path for path in asked)


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_several_files_of_a_repository(api: Client, db: Session, hub: Hub, name: str) -> None:
    made = begin(api, hub=name, repository="lin/reviews", files=["data/"])
    importing.import_version(made["version_id"])
    found = fresh(db, made["version_id"])
    assert [one["name"] for one in found.files] == ["data/test.jsonl", "data/train.jsonl"]
    assert found.file_name == "test.jsonl, train.jsonl"
    upload = settings.home / "store" / found.upload
    assert (upload / "body").read_bytes() == many(4)
    assert (upload / "body.1").read_bytes() == many(30)
    assert finish(db, made["version_id"]).rows == 34


def test_progress_over_several_files(
    api: Client, db: Session, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"a.jsonl": many(100), "b.jsonl.gz": gzip.compress(SLOW, 1)}
    hub.breaks = [len(many(100)), 50_000]
    made = begin(api, hub="huggingface", repository="lin/reviews")
    importing.import_version(made["version_id"])
    shown = api.get(f"{URL}/{made['id']}").json()["transfer"]
    assert shown["received"] == len(many(100)) + 50_000
    assert shown["total"] == sum(map(len, hub.files.values()))
    assert [shown["file"], shown["number"], shown["files"]] == ["b.jsonl.gz", 2, 2]


def test_what_does_not_match_its_checksum_is_not_taken(
    api: Client, db: Session, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_api, "sha", lambda digest: "0" * 64)
    asked = {"hub": "modelscope", "repository": "lin/reviews", "files": ["extra.json"]}
    assert failed(api, db, **asked) == "import.damaged"


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
@pytest.mark.parametrize(
    ("asked", "codes"),
    [
        ({"repository": "lin/none"}, {"hub.login", "hub.missing"}),
        ({"revision": "v9"}, {"hub.missing"}),
        ({"files": ["data/none.jsonl"]}, {"hub.no_file"}),
        ({"files": ["../../etc/passwd"]}, {"hub.no_file"}),
    ],
)
def test_what_a_hub_does_not_have(
    api: Client, db: Session, hub: Hub, name: str, asked: dict[str, Any], codes: set[str]
) -> None:
    asked = {"hub": name, "repository": "lin/reviews"} | asked
    assert failed(api, db, **asked) in codes
    if "files" not in asked:
        query = "&".join(f"{key}={value}" for key, value in asked.items())
        answer = api.get(f"{URL}/import/files?{query}")
        assert [answer.status_code, answer.json()["code"] in codes] == [404, True]


def test_a_repository_without_data(api: Client, db: Session, hub: Hub) -> None:
    hub.files = {"README.md": b"x", "model.safetensors": b"x", "LICENSE.txt": b"x", ".x.json": b"x"}
    assert failed(api, db, hub="huggingface", repository="lin/reviews") == "hub.no_data"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'"x"', b"<html>", b'{"sha": "../x"}'])
def test_a_hub_that_speaks_otherwise(api: Client, db: Session, hub: Hub, body: bytes) -> None:
    hub.plain["/api/datasets/lin/reviews/revision/main"] = body
    assert failed(api, db, hub="huggingface", repository="lin/reviews") == "hub.odd"


def test_names_that_a_hub_might_give(hub: Hub) -> None:
    for path in ("../x.json", "a/../../x.json", "/etc/x.json", "a//x.json", "a\0.json", "a\n.json"):
        assert not hub_api.safe(path)
    assert hubs.named("huggingface", "https://huggingface.co/datasets/a/b/tree/main", "") == (
        "a/b",
        "",
    )
    assert hubs.named("huggingface", "squad", "main") == ("squad", "main")


def test_the_hubs_address_is_for_the_hubs_only(
    api: Client, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "fetch_allow", "")
    assert len(hubs.look("huggingface", "lin/reviews").files) == 3
    answer = api.post(f"{URL}/import", json={"url": f"{hub.url}/a.jsonl"})
    assert [answer.status_code, answer.json()["code"]] == [422, "address.private"]


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_the_page_of_a_hub(client: Client, db: Session, hub: Hub, name: str) -> None:
    page(client.get("/datasets/new/hub"))
    look = f"/datasets/new/hub?hub={name}&repository=lin/reviews&revision="
    soup = page(client.get(look))
    files = soup.select(test_id("import-file"))
    assert [(one["value"], one.has_attr("checked")) for one in files] == [
        ("extra.json", False),
        ("data/test.jsonl", False),
        ("data/train.jsonl", True),
    ]
    hidden = {one["name"]: one["value"] for one in soup.select('form[method="post"] [type=hidden]')}
    assert hidden["revision"] == COMMIT
    made = client.post("/datasets/import", data=hidden | {"files": "data/train.jsonl", "name": "n"})
    assert made.status_code == 303
    version = db.scalars(select(DatasetVersion)).one()
    assert finish(db, version.id).rows == 30
    soup = page(client.get(look.replace("reviews", "none")), 404)
    assert "lin/none" in one_of(soup, "#e-repository").get_text()
    soup = page(client.get(look.replace("lin/reviews", "../x")), 422)
    assert one_of(soup, "#e-repository")
    two = hidden | {"files": ["data/train.jsonl", "extra.json"]}
    assert client.post("/datasets/import", data=two).status_code == 303
