"""Rendering, languages, errors as each reader gets them, what a first visit loads."""

import gzip
import re

import pytest
from bs4 import BeautifulSoup
from pydantic import BaseModel
from starlette.routing import NoMatchFound

from app import web
from app.config import ROOT
from app.errors import Invalid
from tests.conftest import Client, sign_in
from tests.factories import make_user, make_workspace

BUDGET = 250_000  # bytes of a first visit, gzipped


# -- numbers -----------------------------------------------------------------------------


def test_numbers_carry_their_units():
    assert [web.format_bytes(n) for n in (None, 0, 1023, 1024, 1.5 * 2**30, 2**50)] == [
        "–",
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "1024.0 TiB",
    ]
    assert [web.format_count(n) for n in (None, 12345, 6_200_000, 999_885_952, 7e9)] == [
        "–",
        "12,345",
        "6.2M",
        "1B",
        "7B",
    ]
    assert [web.format_duration(n) for n in (None, -1, 59, 192, 7500)] == [
        "–",
        "0s",
        "59s",
        "3m 12s",
        "2h 05m",
    ]
    assert {web.hue(str(n)) for n in range(200)} == set(range(8))


# -- the reader's language ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "lang"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("en-GB,en;q=0.9", "en"),
        ("fr,zh;q=0.5", "zh-CN"),
        ("", "en"),
        ("*", "en"),
        (";;,,\x7f", "en"),
    ],
)
def test_the_browser_says_the_language(anonymous, accept, lang):
    page = anonymous.get("/login", headers={"accept-language": accept})
    assert f'<html lang="{lang}"' in page.text


def test_a_choice_outlives_the_browser(db, client):
    assert (
        client.post("/language", data={"lang": "zh", "next": "/keys"}).headers["location"]
        == "/keys"
    )
    assert '<html lang="zh-CN"' in client.get("/keys").text
    db.refresh(client.user)
    assert client.user.language == "zh"
    client.cookies.delete("danlu_lang")  # another browser, the same account
    assert '<html lang="zh-CN"' in client.get("/keys", headers={"accept-language": "en"}).text


def test_an_unknown_language_is_english(anonymous):
    response = anonymous.post("/language", data={"lang": "xx", "next": "//evil.example"})
    assert response.headers["location"] == "/"
    assert 'lang="en"' in anonymous.get("/login").text


# -- errors, to each in their form -------------------------------------------------------


def test_a_page_that_is_not_there(client):
    response = client.get("/nothing")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert BeautifulSoup(response.text, "lxml").select_one("main h1").text == "Not found"


def test_htmx_gets_a_toast(client):
    response = client.post("/keys/key_none/revoke", headers={"hx-request": "true"})
    assert response.status_code == 404
    assert response.headers["hx-retarget"] == "#toasts"
    assert response.headers["hx-reswap"] == "beforeend"
    assert "<html" not in response.text
    assert "There is no such API key." in response.text


def test_the_api_gets_problem_json(api):
    response = api.post("/api/v1/keys", json={"name": "", "scopes": "all", "more": 1})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert {error["field"] for error in body["errors"]} == {"name", "scopes", "more"}
    assert api.get("/api/v1/nothing").json()["code"] == "not_found"
    assert api.put("/api/v1/me").json()["code"] == "method_not_allowed"


def test_openai_clients_get_openais_body(anonymous):
    response = anonymous.get("/v1/models", headers={"authorization": "Bearer wrong"})
    assert response.status_code == 401
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert anonymous.get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_a_broken_body(api):
    headers = {"content-type": "application/json"}
    for content in (b"{", b"\xff", b'{"name": "\\ud800", "scopes": []}', b"[" * 100_000):
        response = api.post("/api/v1/keys", content=content, headers=headers)
        assert response.status_code in (400, 422), content[:20]
        assert response.json()["code"] == "invalid"


def test_what_the_database_cannot_hold(api):
    response = api.post("/api/v1/keys", json={"name": "a\0b", "scopes": ["inference"]})
    assert response.status_code == 422


def test_signing_in_comes_first_and_then_what_was_asked_for(anonymous, db):
    response = anonymous.get("/keys?a=1&b=2")
    assert response.status_code == 303
    assert response.headers["location"] == "/login?next=/keys%3Fa%3D1%26b%3D2"
    assert anonymous.get("/").headers["location"] == "/login"
    assert anonymous.post("/keys").headers["location"] == "/login"
    headers = {"hx-request": "true", "hx-current-url": "http://localhost/jobs?x=1"}
    response = anonymous.get("/meter", headers=headers)
    assert (response.status_code, response.headers["hx-redirect"]) == (
        401,
        "/login?next=/jobs%3Fx%3D1",
    )
    assert anonymous.get("/meter", headers={"accept": "text/event-stream"}).status_code == 401


# -- forms -------------------------------------------------------------------------------


class Form(BaseModel):
    count: int


def test_forms_keep_what_was_typed(client):
    response = client.post(
        "/keys", data={"name": "<b>mine</b>", "days": "many", "scopes": "inference"}
    )
    assert response.status_code == 422
    page = BeautifulSoup(response.text, "lxml")
    assert page.select_one("#f-name")["value"] == "<b>mine</b>"
    assert page.select_one("#f-days")["aria-invalid"] == "true"
    assert page.select_one("#e-days").text == "A whole number is needed."
    ticked = [box["value"] for box in page.select("[name=scopes][checked]")]
    assert ticked == ["inference"]
    assert page.select_one("dialog#new-key[data-opened]")


def test_a_refusal_stands_beside_its_field():
    parsed = web.Parsed(
        request=type("R", (), {"cookies": {}, "headers": {}, "state": None})(), values={}
    )
    parsed.refuse(Invalid("No.", field="count"))
    parsed.refuse(Invalid("Not at all."))
    assert parsed.errors == {"count": "No.", "": "Not at all."}


def test_forms_take_no_files(client):
    response = client.post("/keys", files={"name": ("a.txt", b"x" * 100)})
    assert response.status_code == 400


# -- what a visit loads ------------------------------------------------------------------


def test_first_load_fits_the_budget(client):
    response = client.get("/")
    page = BeautifulSoup(response.text, "lxml")
    addresses = {tag["src"] for tag in page.select("script[src], img[src]")}
    addresses |= {tag["href"] for tag in page.select("link[href]")}
    addresses |= {use["href"].split("#")[0] for use in page.select("use[href]")}
    assert len(addresses) > 5
    total = len(gzip.compress(response.content))
    for address in addresses:
        file = client.get(address)
        assert file.status_code == 200, address
        total += len(gzip.compress(file.content))
    assert total <= BUDGET, total


def test_pages_hold_no_inline_script_or_style():
    """The policy forbids them; a browser would silently ignore them."""
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text()
        assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:|hx-on|\bjs:", text), path
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), path


def test_what_renews_itself_goes_on_doing_so():
    """Morphing keeps the element, so that it is not loaded again: it asks every so often, or is
    replaced."""
    for path in (ROOT / "templates").rglob("*.html"):
        for tag in re.findall(r"<[a-z]+ [^<]*hx-trigger=\"load delay[^<]*", path.read_text()):
            assert "Morph" not in tag, path


def test_every_icon_is_in_the_sprite():
    sprite = set(re.findall(r'id="([\w-]+)"', (ROOT / "static/icons.svg").read_text()))
    used = set()
    for path in (ROOT / "templates").rglob("*.html"):
        used |= set(re.findall(r'icon\("([\w-]+)"', path.read_text()))
        used |= set(re.findall(r'empty\("([\w-]+)"', path.read_text()))
    assert used
    assert used <= sprite, used - sprite


def test_an_account_without_a_workspace_is_told_so(db, anonymous: Client):
    user = make_user(db)
    workspace = make_workspace(db)
    sign_in(db, anonymous, user, workspace)
    response = anonymous.get("/")
    assert response.status_code == 403
    assert "Your account is in no workspace yet." in response.text


def test_an_address_is_what_the_router_says():
    from app.main import app

    for params in ({"dataset_id": "ds_1", "number": 7}, {"dataset_id": "数据 {a}", "number": "0"}):
        for _ in range(2):
            found = web.address(app, "datasets:row", **params)
            assert found == app.url_path_for("datasets:row", **params)
    assert web.address(app, "datasets:list") == "/datasets"
    for wrong in ("a/b", ""):
        with pytest.raises(AssertionError):
            web.address(app, "datasets:row", dataset_id=wrong, number=1)
    with pytest.raises(NoMatchFound):
        web.address(app, "datasets:row", dataset_id="ds_1")
