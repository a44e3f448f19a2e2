"""Imports from an address: whole, broken off, refused, taking turns, cancelled."""

import hashlib
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import pulling
from app.config import settings
from app.datasets import work
from app.datasets.intake import importing
from app.datasets.tables import DatasetVersion
from tests.conftest import Client
from tests.datasets.files import many, stored
from tests.datasets.intake.importers import SLOW, URL, begin, failed, finish, fresh, nudges, rested
from tests.datasets.test_routes import one as one_of
from tests.datasets.test_routes import page, test_id
from tests.stand_in_hub import Hub

# -- from an address ---------------------------------------------------------------------


def test_a_file_from_an_address(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/data/reviews.jsonl"] = many(300)
    made = begin(api, name="", url=f"{hub.url}/data/reviews.jsonl?signature=secret")
    assert made["name"] == "reviews"
    assert nudges(db) == [("workers.import_dataset", made["version_id"])]
    importing.import_version(made["version_id"])
    assert fresh(db, made["version_id"]).status == "validating"
    found = finish(db, made["version_id"])
    assert [found.status, found.rows, found.file_name] == ["draft", 300, "reviews.jsonl"]
    assert found.bytes == len(many(300))
    assert found.recipe == {"made": "import", "from": "url", "url": f"{hub.url}/data/reviews.jsonl"}
    work.clear(made["id"])
    assert {path.split("/")[0] for path in stored()} == {"segments", "facts", "checks"}
    assert nudges(db) == []


def test_it_goes_on_where_it_was_cut_off(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/a.jsonl"] = SLOW
    hub.breaks = [1_200_000, 300_000]
    made = begin(api, url=f"{hub.url}/a.jsonl")
    importing.import_version(made["version_id"])
    waiting = api.get(f"{URL}/{made['id']}").json()
    assert waiting["status"] == "importing"
    assert waiting["transfer"]["received"] == 1_200_000
    assert waiting["transfer"]["total"] == len(SLOW)
    assert "broke off" in waiting["transfer"]["waits"]
    assert nudges(db) == []  # it rests for some seconds
    importing.import_version(made["version_id"])
    assert len(hub.asked("/a.jsonl")) == 1
    rested(db)
    importing.import_version(made["version_id"])
    rested(db)
    importing.import_version(made["version_id"])
    assert [head.get("range") for head in hub.asked("/a.jsonl")] == [
        None,
        "bytes=1200000-",
        "bytes=1500000-",
    ]
    found = fresh(db, made["version_id"])
    assert found.status == "validating"
    upload = (settings.home / "store" / found.upload / "body").read_bytes()
    assert hashlib.sha256(upload).digest() == hashlib.sha256(SLOW).digest()


def test_a_file_that_has_changed_is_begun_anew(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/a.jsonl"] = SLOW
    hub.breaks = [1_200_000]
    made = begin(api, url=f"{hub.url}/a.jsonl")
    importing.import_version(made["version_id"])
    hub.plain["/a.jsonl"] = many(10)
    found = finish(db, made["version_id"])
    assert [found.status, found.rows, found.bytes] == ["draft", 10, len(many(10))]


def test_a_server_without_ranges_is_begun_anew(api: Client, db: Session, hub: Hub) -> None:
    hub.ranges = False
    hub.plain["/a.jsonl"] = SLOW
    hub.breaks = [1_200_000]
    made = begin(api, url=f"{hub.url}/a.jsonl")
    importing.import_version(made["version_id"])
    found = finish(db, made["version_id"])
    assert [found.status, found.rows] == ["draft", 20_000]
    assert [head.get("range") for head in hub.asked("/a.jsonl")] == [None, None]


def test_a_long_import_goes_in_stretches(
    api: Client, db: Session, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "STRETCH", 0.1)
    hub.plain["/a.jsonl"] = SLOW
    hub.pause = 0.02
    made = begin(api, url=f"{hub.url}/a.jsonl")
    importing.import_version(made["version_id"])
    first = fresh(db, made["version_id"])
    assert first.status == "importing"
    assert 0 < first.cursor["received"] < len(SLOW)
    assert nudges(db) == [("workers.import_dataset", made["version_id"])]
    assert 0 < api.get(f"{URL}/{made['id']}").json()["progress"] < 1
    found = finish(db, made["version_id"])
    assert [found.status, found.rows] == ["draft", 20_000]
    assert len(hub.asked("/a.jsonl")) > 3


def test_imports_take_turns(
    api: Client, db: Session, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "STRETCH", 0.0)
    monkeypatch.setattr(pulling, "BEAT", 0.0)
    hub.plain |= {"/a.jsonl": SLOW, "/b.jsonl": SLOW}
    ones = [begin(api, url=f"{hub.url}/{name}.jsonl")["version_id"] for name in "ab"]
    sent: list[str] = []
    monkeypatch.setattr(importing.service, "nudge", lambda db, one: sent.append(one.id))
    importing.import_version(ones[0])
    assert fresh(db, ones[0]).cursor["received"] > 0
    assert sent == [ones[1]]
    importing.import_version(ones[1])
    assert sent == [ones[1], ones[0]]


def test_a_server_that_stays_away_fails_it_after_some_tries(
    api: Client, db: Session, hub: Hub
) -> None:
    hub.statuses["/a.jsonl"] = 503
    assert failed(api, db, url=f"{hub.url}/a.jsonl") == "address.status"
    assert len(hub.asked("/a.jsonl")) == len(pulling.WAIT) + 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/missing", "address.missing"),
        ("/login", "address.login"),
        ("/inside", "address.private"),
        ("/page", "address.page"),
        ("/empty", "file.empty"),
        ("/pdf", "file.type"),
        ("/large", "address.too_large"),
        ("/loop", "address.loop"),
    ],
)
def test_what_cannot_be_imported(
    api: Client, db: Session, hub: Hub, path: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_upload_mb", 1)
    hub.statuses["/login"] = 403
    hub.redirects |= {"/inside": "http://10.0.0.1/secret", "/loop": "/loop"}
    hub.plain |= {"/empty": b"", "/pdf": b"%PDF-1.7", "/large": SLOW, "/page": b"<html>"}
    hub.headers = {"content-type": "text/html; charset=utf-8"} if path == "/page" else {}
    assert failed(api, db, url=f"{hub.url}{path}") == code


@pytest.mark.parametrize(
    ("asked", "field", "code"),
    [
        ({"url": "http://169.254.169.254/latest/"}, "url", "address.private"),
        ({"url": "http://localhost:6379/"}, "url", "address.private"),
        ({"url": "file:///etc/passwd"}, "url", "address.scheme"),
        ({"url": "http://a:b@example.com/"}, "url", "address.credentials"),
        ({}, "url", "address.scheme"),
        ({"hub": "github", "repository": "a/b"}, "hub", "hub.unknown"),
        ({"hub": "huggingface", "repository": "a/b/../c"}, "repository", "hub.repository"),
        ({"hub": "huggingface", "repository": ""}, "repository", "hub.repository"),
        ({"hub": "modelscope", "repository": "alone"}, "repository", "hub.repository"),
        (
            {"hub": "huggingface", "repository": "a/b", "revision": "../../x"},
            "revision",
            "hub.revision",
        ),
        ({"name": "x" * 200, "hub": "huggingface", "repository": "a/b"}, "name", "name.too_long"),
    ],
)
def test_what_is_refused_at_once(api: Client, asked: dict[str, Any], field: str, code: str) -> None:
    answer = api.post(f"{URL}/import", json=asked)
    assert [answer.status_code, answer.json()["code"]] == [422, code]
    assert answer.json()["errors"][0]["field"] == field
    assert api.get(URL).json()["data"] == []


def test_an_import_becomes_a_version_of_a_dataset(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/b.jsonl"] = many(5)
    first = api.post(URL, files={"file": ("a.jsonl", many(1))}).json()
    made = begin(api, url=f"{hub.url}/b.jsonl", dataset=first["id"])
    assert [made["id"], made["version"]] == [first["id"], 2]
    assert finish(db, made["version_id"]).rows == 5
    assert api.post(f"{URL}/import", json={"url": hub.url, "dataset": "ds_x"}).status_code == 404


# -- stopping ----------------------------------------------------------------------------


def test_an_import_is_cancelled(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/a.jsonl"] = SLOW
    hub.breaks = [1_200_000]
    made = begin(api, url=f"{hub.url}/a.jsonl")
    importing.import_version(made["version_id"])
    assert len(stored()) == 1
    answer = api.post(f"{URL}/{made['id']}/cancel")
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]["code"] == "cancelled"
    rested(db)
    importing.import_version(made["version_id"])
    assert fresh(db, made["version_id"]).status == "failed"
    assert stored() == []
    assert api.post(f"{URL}/{made['id']}/cancel").status_code == 409


def test_an_import_stops_while_it_runs(
    api: Client, db: Session, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dataset is deleted; the worker finds out with the next beat."""
    hub.plain["/a.jsonl"] = SLOW
    made = begin(api, url=f"{hub.url}/a.jsonl")
    real, deleted = importing.Import.beat, []

    def beat(self: importing.Import) -> bool:
        if not deleted:
            deleted.append(api.delete(f"{URL}/{made['id']}").status_code)
        self.beaten = 0.0
        return real(self)

    monkeypatch.setattr(importing.Import, "beat", beat)
    importing.import_version(made["version_id"])
    assert deleted == [204]
    assert fresh(db, made["version_id"]).status == "failed"
    assert stored() == []
    work.clear(made["id"])
    assert nudges(db) == []


def test_deleting_what_waits_removes_its_bytes(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/a.jsonl"] = SLOW
    hub.breaks = [1_200_000]
    made = begin(api, url=f"{hub.url}/a.jsonl")
    importing.import_version(made["version_id"])
    assert api.delete(f"{URL}/{made['id']}").status_code == 204
    work.clear(made["id"])
    assert stored() == []


def test_nobody_takes_what_another_is_at(api: Client, db: Session, hub: Hub) -> None:
    hub.plain["/a.jsonl"] = many(10)
    made = begin(api, url=f"{hub.url}/a.jsonl")
    assert work.claim(made["version_id"], "importing")
    importing.import_version(made["version_id"])
    assert hub.seen == []
    rested(db)  # it fell silent, but on this machine it still writes
    with importing.alone(settings.uploads / "importing") as ours:
        assert ours
        importing.import_version(made["version_id"])
    assert hub.seen == []


def test_a_kill_between_two_steps_costs_nothing(
    api: Client, db: Session, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are in the store, and the row does not say so yet."""
    hub.plain["/a.jsonl"] = many(10)
    made = begin(api, url=f"{hub.url}/a.jsonl")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importing, "switch", killed)
        with pytest.raises(KeyboardInterrupt):
            importing.import_version(made["version_id"])
    assert [path.split("/")[0] for path in stored()] == ["uploads"]
    assert finish(db, made["version_id"]).rows == 10
    assert len(hub.asked("/a.jsonl")) == 1


# -- the page ----------------------------------------------------------------------------


def test_the_page_of_an_address(client: Client, db: Session, hub: Hub) -> None:
    hub.plain["/a.jsonl"] = SLOW
    hub.breaks = [1_200_000]
    soup = page(client.get("/datasets/new/url"))
    assert one_of(soup, 'form[action="/datasets/import"]')["method"] == "post"
    bad = page(client.post("/datasets/import", data={"url": "http://10.0.0.1/", "name": "n"}), 422)
    assert "10.0.0.1" in one_of(bad, "#e-url").get_text()
    assert one_of(bad, "#f-name")["value"] == "n"
    made = client.post("/datasets/import", data={"url": f"{hub.url}/a.jsonl", "name": ""})
    assert made.status_code == 303
    path = made.headers["location"]
    version = db.scalars(select(DatasetVersion)).one()
    importing.import_version(version.id)
    soup = page(client.get(path))
    assert one_of(soup, test_id("import-progress")).get_text().startswith("1.1 MiB of ")
    assert "again" in one_of(soup, test_id("import-waits")).get_text()
    assert one_of(soup, "#status")["hx-get"].endswith("/status")
    one_of(page(client.get("/datasets")), '[data-state="importing"]')
    assert client.post(f"{path}/cancel", data={"version": "1"}).status_code == 303
    soup = page(client.get(path))
    assert "cancelled" in soup.get_text()
    assert not soup.select(test_id("import-cancel"))
