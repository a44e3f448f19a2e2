"""Limits of API keys: made, changed and shown; addresses hold for the whole API."""

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.accounts.limits import Limits
from app.accounts.tables import ApiKey
from app.config import settings
from app.db import now
from app.gateway import ledger, limits, scopes
from app.main import app
from app.queue import redis
from app.quotas import service as quotas
from tests.conftest import Client, sign_in
from tests.factories import make_key, make_membership, make_user

LIMITS = {
    "models": ["ft:*", "mood"],
    "ips": ["10.0.0.7", "10.1.0.0/16"],
    "rpm": 60,
    "tpm": 10_000,
    "parallel": 4,
    "daily_tokens": 10**6,
    "total_tokens": 10**9,
}


def test_what_a_key_permits():
    allowed = Limits(models=("mood", "ft:qwen*"), ips=("10.1.0.0/16", "::1"))
    assert [allowed.permits(name) for name in ("mood", "moody", "ft:qwen3:x")] == [
        True,
        False,
        True,
    ]
    assert [allowed.admits(ip) for ip in ("10.1.2.3", "::ffff:10.1.2.3", "::1")] == [True] * 3
    assert [allowed.admits(ip) for ip in ("10.2.0.1", "", "testclient")] == [False] * 3
    assert Limits(models=("*",)).permits("anything")
    assert not allowed.counted
    assert Limits(rpm=1).counted


def test_made_and_changed_by_the_api(api):
    made = api.post("/api/v1/keys", json={"name": "ci", "scopes": ["inference"], **LIMITS})
    assert made.status_code == 201
    path = f"/api/v1/keys/{made.json()['id']}"
    assert {name: api.get(path).json()[name] for name in LIMITS} == LIMITS
    changed = api.patch(path, json={"rpm": None, "models": [], "ips": ["10.9.9.9/16"]}).json()
    assert (changed["rpm"], changed["models"], changed["ips"]) == (None, [], ["10.9.0.0/16"])
    assert (changed["tpm"], changed["name"]) == (10_000, "ci")
    assert api.patch(path, json={"name": "cd"}).json()["name"] == "cd"
    assert api.delete(path).status_code == 204
    assert api.patch(path, json={"rpm": 1}).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"ips": ["example.com"]},
        {"ips": ["10.0.0.0/99"]},
        {"models": ["a*b"]},
        {"models": ["a b"]},
        {"rpm": 0},
        {"tpm": 10**16},
        {"parallel": -1},
        {"daily_tokens": "many"},
        {"name": ""},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"scopes": ["inference"]},
    ],
)
def test_limits_that_make_no_sense(db, api, wrong):
    key = db.scalar(select(ApiKey.id))
    assert api.patch(f"/api/v1/keys/{key}", json=wrong).status_code == 422


def test_a_key_with_limits_gives_itself_none(db, api):
    weak = make_key(db, api.workspace, api.user, scopes=["account"], rpm=5)
    db.commit()
    headers = {"authorization": f"Bearer {weak}"}
    body = {"name": "x", "scopes": ["account"]}
    assert api.post("/api/v1/keys", json=body, headers=headers).status_code == 403
    key = db.scalar(select(ApiKey.id).where(ApiKey.rpm == 5))
    assert api.patch(f"/api/v1/keys/{key}", json={"rpm": None}, headers=headers).status_code == 403


def test_a_key_is_used_from_its_addresses_only(db, api, monkeypatch):
    monkeypatch.setattr(settings, "trusted_proxies", "127.0.0.1")
    key = make_key(db, api.workspace, api.user, ips=["192.0.2.0/24"])
    db.commit()
    client = Client(app, base_url=settings.url, client=("127.0.0.1", 50000))
    client.headers["authorization"] = f"Bearer {key}"
    for path in ("/api/v1/me", "/v1/models"):
        refused = client.get(path)
        assert refused.status_code == 403
        assert "ip_not_allowed" in refused.text
        behind = {"x-forwarded-for": "203.0.113.9, 192.0.2.7"}
        assert client.get(path, headers=behind).status_code == 200
    chat = client.post("/v1/chat/completions", json={"model": "x"})
    assert (chat.status_code, chat.json()["error"]["code"]) == (403, "ip_not_allowed")


# -- pages -------------------------------------------------------------------------------


def form(**more: object) -> dict[str, object]:
    return {"name": "ci", "scopes": ["inference"], **more}


def test_made_and_changed_on_the_page(db, client):
    made = client.post("/keys", data=form(models="mood, ft:*", ips="10.0.0.7", rpm="60"))
    assert made.status_code == 200
    key = db.scalars(select(ApiKey)).one()
    assert (key.models, key.ips, key.rpm, key.tpm) == (["mood", "ft:*"], ["10.0.0.7"], 60, None)
    page = BeautifulSoup(client.get(f"/keys/{key.id}").text, "lxml")
    assert page.select_one("[data-testid=key-models]")["value"] == "mood, ft:*"
    assert page.select_one("[data-testid=key-rpm]")["value"] == "60"
    changed = client.post(f"/keys/{key.id}", data={"name": "cd", "tpm": "500", "days": "30"})
    assert changed.headers["location"] == "/keys"
    db.expire_all()
    assert (key.name, key.models, key.rpm, key.tpm) == ("cd", [], None, 500)
    assert key.expires_at
    client.post(f"/keys/{key.id}", data={"name": "cd", "days": "0"})
    db.expire_all()
    assert (key.tpm, key.expires_at) == (None, None)


def test_what_is_wrong_stands_beside_its_field(db, client):
    made = client.post("/keys", data=form(ips="example.com"))
    page = BeautifulSoup(made.text, "lxml")
    assert made.status_code == 422
    assert "10.1.0.0/16" in page.select_one("#e-ips").text
    assert page.select_one("details[open] [data-testid=key-ips]")["value"] == "example.com"
    client.post("/keys", data=form())
    key = db.scalars(select(ApiKey)).one()
    refused = client.post(f"/keys/{key.id}", data={"name": "x", "rpm": "none"})
    assert refused.status_code == 422
    assert BeautifulSoup(refused.text, "lxml").select_one("#e-rpm")


def test_what_is_used_of_it(db, client):
    client.post("/keys", data=form(rpm="60", parallel="2", total_tokens="1000"))
    key = db.scalars(select(ApiKey)).one()
    row = {
        "id": "rq_1",
        "at": now(),
        "kind": "tokens",
        "workspace_id": client.workspace.id,
        "api_key_id": key.id,
        "owner_kind": "deployment",
        "owner_id": "dep_x",
        "prompt_tokens": 300,
        "completion_tokens": 40,
    }
    quotas.record(db, [row, row | {"id": "rq_2", "at": now().replace(year=2025)}])
    db.commit()
    redis().zadd(limits.HELD + key.id, {"rq_3 10": now().timestamp() * 1000 + 9000})
    page = BeautifulSoup(client.get(f"/keys/{key.id}/usage").text, "lxml")
    found = {one["data-limit"]: one.text.strip() for one in page.select("[data-limit]")}
    assert found == {
        "rpm": "1 / 60",
        "parallel": "1 / 2",
        "daily_tokens": "340",
        "total_tokens": "680 / 1,000",
    }
    lines = client.get(f"/api/v1/keys/{key.id}/usage").json()["data"]
    assert {line["name"]: line["used"] for line in lines}["total_tokens"] == 680
    assert ledger.used(scopes.Scope(key.id, scopes.KEY)) == ledger.Use(340, 0, 680, ["rq_1"])


def test_an_admin_sees_and_changes_everybodys(db, client):
    client.post("/keys", data=form())
    key = db.scalars(select(ApiKey)).one()
    for role, status in (("admin", 200), ("member", 404)):
        user = make_user(db)
        make_membership(db, client.workspace, user, role)
        sign_in(db, client, user, client.workspace)
        assert client.get(f"/keys/{key.id}").status_code == status
        assert client.get(f"/keys/{key.id}/usage").status_code == status
        listed = client.get("/api/v1/keys").json()["data"]
        assert len(listed) == (1 if role == "admin" else 0)
