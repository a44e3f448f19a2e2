"""Pages: in and out, account, keys, members, switches."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.accounts.auth import cookie_name
from app.accounts.tables import ApiKey, Membership, SignIn, User
from app.config import settings
from app.queue import redis
from tests.conftest import Client, sign_in
from tests.factories import PASSWORD, make_membership, make_sign_in, make_user, make_workspace


def soup(response: Any) -> BeautifulSoup:
    return BeautifulSoup(response.text, "lxml")


# -- in and out --------------------------------------------------------------------------


@pytest.fixture
def user(db) -> User:
    user = make_user(db)
    make_workspace(db, owner=user)
    db.commit()
    return user


def enter(client: Client, user: User, password: str = PASSWORD, **more: str) -> Any:
    return client.post("/login", data={"email": user.email, "password": password} | more)


def test_in_and_out(db, anonymous, user):
    response = enter(anonymous, user, next="/keys?a=1")
    assert (response.status_code, response.headers["location"]) == (303, "/keys?a=1")
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(cookie_name() + "=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert anonymous.get("/keys").status_code == 200
    assert anonymous.get("/login?next=/keys").headers["location"] == "/keys"
    row = db.scalar(select(SignIn))
    token = anonymous.cookies[cookie_name()]
    assert token not in (row.id, row.token_hash)
    assert anonymous.post("/logout").headers["location"] == "/login"
    anonymous.cookies.set(cookie_name(), token)  # a stolen cookie is of no use afterwards
    assert anonymous.get("/keys").status_code == 303


def test_over_tls_the_cookie_stays_there(anonymous, user, monkeypatch):
    monkeypatch.setattr(settings, "public_url", "https://danlu.example.com")
    assert "Secure" in enter(anonymous, user).headers["set-cookie"]


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "evil",
        "javascript:x",
        "/\n/x",
        "",
    ],
)
def test_signing_in_leads_nowhere_else(anonymous, user, back):
    assert enter(anonymous, user, next=back).headers["location"] == "/"


def test_a_wrong_password_keeps_the_address_and_says_so(anonymous, user):
    response = enter(anonymous, user, "wrong password", next="/jobs")
    assert response.status_code == 401
    page = soup(response)
    assert (
        page.select_one("[role=alert]").get_text(strip=True)
        == "The address or the password is wrong."
    )
    assert page.select_one("[name=email]")["value"] == user.email
    assert page.select_one("form[action='/login'] [name=next]")["value"] == "/jobs"
    assert "wrong password" not in str(page.select("input"))


def test_after_five_it_says_how_long(anonymous, user):
    for _ in range(5):
        enter(anonymous, user, "wrong password")
    response = enter(anonymous, user)
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= 300
    assert "Too many attempts" in response.text
    redis().flushdb()
    assert enter(anonymous, user).status_code == 303


@pytest.mark.parametrize(
    "form", [{}, {"email": "x" * 300, "password": "x"}, {"email": "a\0@b.c", "password": "x"}]
)
def test_a_form_that_makes_no_sense(anonymous, form):
    assert anonymous.post("/login", data=form).status_code in (401, 422)


# -- one's account -----------------------------------------------------------------------


def test_changing_the_password(db, client):
    make_sign_in(db, client.user, client.workspace)
    db.commit()
    wrong = client.post("/account/password", data={"current": "x", "password": "a new password"})
    assert wrong.status_code == 422
    assert "This is not your current password." in soup(wrong).select_one("#e-current").text
    short = client.post("/account/password", data={"current": PASSWORD, "password": "short"})
    assert "at least 8 characters" in soup(short).select_one("#e-password").text
    done = client.post(
        "/account/password", data={"current": PASSWORD, "password": "a new password"}
    )
    page = soup(client.get(done.headers["location"]))
    assert "Your password was changed." in page.text
    assert len(page.select("tbody tr")) == 1


def test_sign_ins_are_listed_and_ended(db, client):
    make_sign_in(
        db, client.user, client.workspace, user_agent="<b>Firefox/1 Linux", ip="203.0.113.9"
    )
    other = make_user(db)
    make_sign_in(db, other, make_workspace(db, owner=other))
    db.commit()
    page = soup(client.get("/account"))
    assert len(page.select("tbody tr")) == 2
    assert "Firefox, Linux" in page.text
    (form,) = page.select('form[action*="/sign-ins/sid_"]')
    assert client.post(form["action"]).status_code == 303
    assert len(soup(client.get("/account")).select("tbody tr")) == 1
    theirs = db.scalar(select(SignIn.id).where(SignIn.user_id == other.id))
    assert client.post(f"/account/sign-ins/{theirs}/revoke").status_code == 404
    assert client.post("/account/sign-ins/revoke-others").status_code == 303
    assert client.get("/account").status_code == 200


def test_switching_the_workspace(db, client):
    second = make_workspace(db, name="Second")
    make_membership(db, second, client.user, "member")
    db.commit()
    menu = soup(client.get("/workspaces/menu"))
    assert len(menu.select("form")) == 2
    assert client.post(f"/workspaces/{second.id}/switch").headers["location"] == "/"
    assert "Second" in soup(client.get("/")).select_one("h1").text
    assert client.post(f"/workspaces/{make_workspace(db).id}/switch").status_code == 404


# -- API keys ----------------------------------------------------------------------------


def test_a_key_is_shown_once(db, client):
    made = client.post(
        "/keys", data={"name": "ci", "scopes": ["inference", "jobs:read"], "days": "30"}
    )
    secret = soup(made).select_one("[data-testid=secret]").text
    assert secret.startswith("dk-")
    page = client.get("/keys")
    assert secret not in page.text
    assert soup(page).select_one("[data-testid=key-row] code").text == f"{secret[:9]}…"
    row = db.scalar(select(ApiKey))
    assert (row.scopes, row.expires_at is not None) == (["jobs:read", "inference"], True)
    headers = {"authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/jobs", headers=headers).status_code == 200
    assert client.get("/api/v1/me", headers=headers).status_code == 403
    assert client.post(f"/keys/{row.id}/revoke").status_code == 303
    assert client.get("/api/v1/jobs", headers=headers).status_code == 401
    assert not soup(client.get("/keys")).select("[data-testid=key-row]")


def test_nothing_ticked_says_so(client):
    response = client.post("/keys", data={"name": "ci"})
    assert response.status_code == 422
    assert "Choose at least one scope." in response.text


def test_an_admin_scope_is_not_offered_to_others(client):
    assert not soup(client.get("/keys")).select("[name=scopes][value=admin]")
    assert client.post("/keys", data={"name": "x", "scopes": "admin"}).status_code == 422


# -- members -----------------------------------------------------------------------------


def test_roles_are_changed_and_the_last_owner_stays(db, client):
    member = make_user(db)
    make_membership(db, client.workspace, member, "viewer")
    db.commit()
    path = f"/workspaces/{client.workspace.id}/members"
    assert client.post(f"{path}/{member.id}/role", data={"role": "admin"}).status_code == 303
    assert db.scalar(select(Membership.role).where(Membership.user_id == member.id)) == "admin"
    last = client.post(f"{path}/{client.user.id}/role", data={"role": "viewer"})
    assert last.status_code == 409
    assert "at least one owner" in last.text
    assert client.post(f"{path}/{member.id}/role", data={"role": "emperor"}).status_code == 422
    assert client.post(f"{path}/{member.id}/remove").status_code == 303
    assert client.post(f"{path}/{member.id}/remove").status_code == 404


def test_a_viewer_sees_no_members_link(db, anonymous):
    viewer = make_user(db)
    workspace = make_workspace(db)
    make_membership(db, workspace, viewer, "viewer")
    sign_in(db, anonymous, viewer, workspace)
    page = soup(anonymous.get("/"))
    assert not page.select("[data-testid=nav-members], [data-testid=nav-admin]")
