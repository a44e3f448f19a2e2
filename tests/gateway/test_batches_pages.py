"""The pages of batches and of the request log, and what they offer as JSON."""

from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.accounts.tables import ApiKey
from app.db import now
from app.gateway.batches import holding
from app.gateway.batches.tables import Batch
from tests.factories import make_key, make_principal
from tests.gateway.batch_files import CHAT, jsonl, line, start
from tests.gateway.test_requests import entry


@pytest.fixture(autouse=True)
def nobody_works(monkeypatch):
    """The pages show what stands still."""
    monkeypatch.setattr(holding, "claim", lambda runner: None)


def page(got) -> BeautifulSoup:
    assert got.status_code == 200, got.text[-500:]
    return BeautifulSoup(got.text, "lxml")


def test_a_file_starts_a_batch_that_can_be_followed_and_cancelled(client, db):
    assert "50,000" in page(client.get("/batches")).text
    file = {"file": ("in.jsonl", jsonl([line(1), line(2)]))}
    made = client.post("/batches", files=file, data={"endpoint": CHAT})
    assert made.status_code == 303, made.text[-500:]
    batch = db.scalars(select(Batch)).one()
    assert (batch.endpoint, batch.api_key_id, batch.user_id) == (CHAT, None, client.user.id)
    batch.status, batch.total, batch.completed, batch.failed = "in_progress", 8, 1, 1
    batch.waits = {"message": "%(name)s is stopped. Start its deployment and try again.",
                   "params": {"name": "mood"}}  # fmt: skip
    db.commit()
    for address in ("/batches", f"/batches/{batch.id}", f"/batches/{batch.id}/status"):
        shown = page(client.get(address))
        assert shown.select_one("progress")["value"] == "2"
        assert "2 of 8" in shown.select_one("[data-testid=batch-counts]").text
        assert "mood is stopped" in shown.text
        assert shown.select_one("[data-testid=batch-cancel]")
    assert client.get(f"/batches/{batch.id}/files/input").content == file["file"][1]
    assert client.get(f"/batches/{batch.id}/files/output").status_code == 404
    assert client.post(f"/batches/{batch.id}/cancel").status_code == 303
    shown = page(client.get("/batches/rows"))
    assert shown.select_one("[data-testid=batch-row]")["data-state"] == "cancelling"
    assert not shown.select_one("[data-testid=batch-cancel]")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", jsonl([line(1)]), "Must be .jsonl"),
        ("a.jsonl", b"x\n", "Line 1 is not a dictionary"),
        ("a.jsonl", b"", "empty"),
    ],
)
def test_a_file_that_is_none_is_refused_beside_the_field(client, name, content, said):
    got = client.post("/batches", files={"file": (name, content)}, data={"endpoint": CHAT})
    assert got.status_code == 422
    shown = BeautifulSoup(got.text, "lxml")
    assert said in shown.select_one("#e-file").text
    assert shown.select_one(f"option[value='{CHAT}'][selected]")


def test_what_is_wrong_stands_on_the_page(client, db):
    who = make_principal(client.user, client.workspace)
    batch = start(db, who, jsonl([line(1)]))
    batch.status, batch.failed_at = "failed", now()
    batch.errors = [
        {"code": "url_mismatch", "line": 3, "param": "url", "params": {"endpoint": CHAT},
         "message": "The url must be the batch's endpoint, %(endpoint)s."}
    ]  # fmt: skip
    db.commit()
    told = page(client.get(f"/batches/{batch.id}")).select_one("[data-testid=batch-error]").text
    assert "Line 3" in told
    assert CHAT in told


# -- the request log ---------------------------------------------------------------------


@pytest.fixture
def key(client, db) -> ApiKey:
    make_key(db, client.workspace, client.user)
    db.commit()
    return db.scalars(select(ApiKey)).one()


def test_what_is_logged_is_chosen_on_a_page(client, db, key):
    assert page(client.get("/requests")).select_one(".empty a")["href"] == "/requests/keys"
    form = {"log": "full", "days": "7"}
    assert client.post(f"/requests/keys/{key.id}", data=form).status_code == 303
    shown = page(client.get("/requests/keys")).select_one("[data-testid=log-key]")
    assert shown.select_one("[name=log] [selected]")["value"] == "full"
    assert shown.select_one("[name=days] [selected]")["value"] == "7"
    assert not shown.select_one("[name=redact][checked]")
    wrong = client.post(f"/requests/keys/{key.id}", data={"log": "full", "days": "0"})
    assert wrong.status_code == 422
    told = client.get(f"/api/v1/keys/{key.id}/log").json()
    assert told == {"key": key.id, "log": "full", "days": 7, "redact": False}
    put = {"log": "off"}
    assert client.put(f"/api/v1/keys/{key.id}/log", json=put).json()["log"] == "off"


def test_the_log_is_searched_read_downloaded_and_made_a_dataset(client, db, key):
    db.add_all([entry(key, "how <b>bold</b>"), entry(key, "something else", status=500)])
    db.commit()
    shown = page(client.get("/requests"))
    assert len(shown.select("[data-testid=log-row]")) == 2
    found = page(client.get("/requests?q=bold&status=ok&days=x")).select("[data-testid=log-row]")
    assert len(found) == 1
    address = found[0].select_one("a")["href"]
    turns = page(client.get(address)).select("[data-testid=log-turn]")
    assert [turn["data-role"] for turn in turns] == ["user", "assistant"]
    assert "how <b>bold</b>" in turns[0].text
    lines = client.get("/requests/download?q=bold").text.splitlines()
    assert len(lines) == 1
    assert "re: how" in lines[0]
    got = client.post("/requests/dataset", data={"q": "bold", "name": "bold ones"})
    assert got.status_code == 303
    assert "bold ones" in client.get(got.headers["location"]).text
    none = client.post("/requests/dataset", data={"status": "error"})
    assert none.status_code == 422
    assert "None of these requests" in none.text


def test_the_log_is_there_as_json(client, db, key):
    old = entry(key, "old")
    old.at = now() - timedelta(days=2)
    db.add_all([old, entry(key, "new")])
    db.commit()
    first = client.get("/api/v1/requests?limit=1").json()
    assert (first["data"][0]["request"]["messages"][0]["content"], first["has_more"]) == (
        "new",
        True,
    )
    after = client.get(f"/api/v1/requests?after={first['data'][0]['id']}").json()
    assert [one["id"] for one in after["data"]] == [old.id]
    assert client.get(f"/api/v1/requests/{old.id}").json()["key"] == key.id
    assert len(client.get("/api/v1/requests/download?days=1").text.splitlines()) == 1
    made = client.post("/api/v1/requests/dataset", json={"name": "x"})
    assert made.status_code == 201, made.text
    assert made.json()["rows"] == 2
