"""Invitations and reset links: who is let in, by which link, and what is said of the others."""

from datetime import timedelta
from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select, update

from app.accounts import invitations, platform, service
from app.accounts.auth import cookie_name
from app.accounts.tables import Invitation, Membership, ResetLink, SignIn, User, Workspace
from app.db import now
from app.errors import Conflict, Forbidden
from tests.conftest import Client, sign_in
from tests.factories import (
    PASSWORD,
    make_invitation,
    make_membership,
    make_principal,
    make_sign_in,
    make_user,
    make_workspace,
)


def soup(response: Any) -> BeautifulSoup:
    return BeautifulSoup(response.text, "lxml")


def path_of(response: Any) -> str:
    """The path of the link that a page shows once."""
    url = soup(response).select_one("[data-testid=one-time-link]").text
    return "/" + url.split("/", 3)[3]


def code_of(response: Any) -> str:
    return soup(response).select_one("[role=alert]")["data-code"]


@pytest.fixture
def invited(client: Client) -> str:
    """The path of an invitation as a member, made on the page."""
    made = client.post(
        f"/workspaces/{client.workspace.id}/invitations",
        data={"email": "New@Example.com", "role": "member"},
    )
    return path_of(made)


# -- inviting and coming in --------------------------------------------------------------


def test_somebody_new_comes_in(db, client, invited):
    token = invited.rpartition("/")[2]
    assert token not in client.get(f"/workspaces/{client.workspace.id}/members").text
    assert db.scalar(select(Invitation.token_hash)) != token
    client.cookies.clear()
    page = soup(client.get(invited))
    assert client.workspace.name in page.text
    assert "new@example.com" in page.text
    short = client.post(invited, data={"name": "王小明", "password": "short"})
    assert "at least 8 characters" in soup(short).select_one("#e-password").text
    assert soup(short).select_one("[name=name]")["value"] == "王小明"
    done = client.post(invited, data={"name": "王小明", "password": PASSWORD})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert client.workspace.name in client.get("/").text  # lands where they were invited
    user = db.scalar(select(User).where(User.email == "new@example.com"))
    assert user.name == "王小明"
    roles = db.execute(
        select(Workspace.slug, Workspace.personal_of, Membership.role)
        .join(Membership, Membership.workspace_id == Workspace.id)
        .where(Membership.user_id == user.id)
        .order_by(Membership.role)
    ).all()
    assert roles == [(client.workspace.slug, None, "member"), ("new", user.id, "owner")]
    client.cookies.clear()
    assert client.post("/login", data={"email": user.email, "password": PASSWORD}).is_redirect


def test_somebody_with_an_account_signs_in_and_joins(db, client, anonymous):
    user = make_user(db)
    make_workspace(db, owner=user)
    row, token = make_invitation(db, client.workspace, client.user, email=user.email, role="viewer")
    db.commit()
    path = f"/invitations/{token}"
    client.cookies.clear()
    page = soup(client.get(path))
    assert page.select_one("[data-testid=sign-in-first]")["href"] == f"/login?next={path}"
    refused = client.post(path, data={"name": "x", "password": PASSWORD})
    assert refused.status_code == 409
    assert "There is an account" in refused.text
    data = {"email": user.email, "password": PASSWORD, "next": path}
    assert client.post("/login", data=data).headers["location"] == path
    assert soup(client.get(path)).select_one("[data-testid=accept]")
    assert client.post(path).headers["location"] == "/"
    assert (
        client.workspace.name
        in soup(client.get("/")).select_one("[data-testid=workspace-switch]").text
    )
    assert db.get(Membership, (client.workspace.id, user.id)).role == "viewer"
    db.refresh(row)
    assert row.accepted_by == user.id


def test_another_address_is_told_so(db, client):
    row, token = make_invitation(db, client.workspace, client.user)
    other = make_user(db)
    sign_in(db, client, other, make_workspace(db, owner=other))
    page = soup(client.get(f"/invitations/{token}"))
    assert other.email in page.text
    assert page.select_one("[data-testid=sign-out-first]")
    assert client.post(f"/invitations/{token}").status_code == 403
    db.refresh(row)
    assert row.accepted_at is None
    away = client.post("/logout", data={"next": f"/invitations/{token}"})
    assert away.headers["location"] == f"/invitations/{token}"


@pytest.mark.parametrize(
    ("overrides", "code", "status"),
    [
        ({"accepted_at": now()}, "link_used", 409),
        ({"revoked_at": now()}, "link_revoked", 409),
        ({"expires_at": now() - timedelta(seconds=1)}, "link_expired", 409),
    ],
)
def test_a_link_that_is_over_says_why(db, anonymous, overrides, code, status):
    row, token = make_invitation(db, make_workspace(db), make_user(db), **overrides)
    db.commit()
    for answer in (
        anonymous.get(f"/invitations/{token}"),
        anonymous.post(f"/invitations/{token}", data={"name": "x", "password": PASSWORD}),
    ):
        assert (answer.status_code, code_of(answer)) == (status, code)
    assert db.scalar(select(User).where(User.email == row.email)) is None


@pytest.mark.parametrize("token", ["x" * 43, "short", "%27%20OR%201=1", "x" * 4000])
def test_a_wrong_link(anonymous, token):
    for answer in (anonymous.get(f"/invitations/{token}"), anonymous.get(f"/reset/{token}")):
        assert (answer.status_code, code_of(answer)) == (404, "link_unknown")


def test_a_link_works_once(db, client, invited):
    client.cookies.clear()
    data = {"name": "x", "password": PASSWORD}
    assert client.post(invited, data=data).is_redirect
    client.cookies.clear()
    assert code_of(client.post(invited, data=data)) == "link_used"


def test_a_new_link_stops_the_old_one(db, client, invited):
    row = db.scalar(select(Invitation))
    base = f"/workspaces/{client.workspace.id}/invitations"
    fresh = path_of(client.post(f"{base}/{row.id}/resend"))
    client.cookies.clear()
    assert code_of(client.get(invited)) == "link_unknown"
    assert client.get(fresh).status_code == 200


def test_inviting_again_replaces_and_revoking_ends(db, client, invited):
    base = f"/workspaces/{client.workspace.id}"
    again = path_of(client.post(f"{base}/invitations", data={"email": "new@example.com"}))
    assert len(soup(client.get(f"{base}/members")).select("[data-testid=invitation-row]")) == 1
    assert code_of(client.get(invited)) == "link_revoked"
    (row,) = invitations.pending(db, client.workspace.id)
    assert client.post(f"{base}/invitations/{row.id}/revoke").is_redirect
    assert code_of(client.get(again)) == "link_revoked"
    assert client.post(f"{base}/invitations/{row.id}/revoke").status_code == 404


def test_who_is_here_is_not_invited(db, client):
    path = f"/workspaces/{client.workspace.id}/invitations"
    refused = client.post(path, data={"email": client.user.email})
    assert refused.status_code == 422
    assert "is here already" in soup(refused).select_one("#e-email").text
    assert client.post(path, data={"email": "no address"}).status_code == 422


def test_only_an_owner_invites_owners_and_links_end_with_who_made_them(db):
    workspace = make_workspace(db)
    admin = make_user(db)
    make_membership(db, workspace, admin, "admin")
    who = make_principal(admin, workspace, role="admin")
    with pytest.raises(Forbidden):
        invitations.invite(db, who, workspace_id=workspace.id, email="a@b.c", role="owner")
    _, token = invitations.invite(db, who, workspace_id=workspace.id, email="a@b.c")
    owner = db.scalar(select(User).join(Membership).where(Membership.role == "owner"))
    boss = make_principal(owner, workspace)
    service.remove_member(db, boss, workspace_id=workspace.id, user_id=admin.id)
    with pytest.raises(Conflict) as refused:
        invitations.find(db, token)
    assert refused.value.code == "link_revoked"


def test_how_long_it_lasts_is_a_setting(db):
    platform.change(db, None, people={"invitation_days": 30})
    workspace = make_workspace(db)
    who = make_principal(make_user(db), workspace)
    row, _ = invitations.invite(db, who, workspace_id=workspace.id, email="a@b.c")
    assert timedelta(days=29) < row.expires_at - now() < timedelta(days=31)


def test_by_the_api(db, api, anonymous):
    base = f"/api/v1/workspaces/{api.workspace.id}/invitations"
    made = api.post(base, json={"email": "new@example.com", "role": "viewer"})
    assert made.status_code == 201
    token = made.json()["url"].rpartition("/")[2]
    (listed,) = api.get(base).json()["data"]
    assert listed == {
        key: value for key, value in made.json().items() if key not in ("url", "mailed")
    }
    short = anonymous.post(f"/api/v1/links/{token}/join", json={"name": "x", "password": "short"})
    assert short.status_code == 422
    whole = {"name": "x", "password": PASSWORD}
    joined = anonymous.post(f"/api/v1/links/{token}/join", json=whole)
    assert joined.json()["workspace_id"] == api.workspace.id
    assert anonymous.post(f"/api/v1/links/{token}/join", json=whole).json()["code"] == "link_used"
    assert api.get(base).json()["data"] == []


# -- forgotten passwords -----------------------------------------------------------------


@pytest.fixture
def forgetful(db, client: Client) -> tuple[User, str]:
    """Somebody for whom a platform admin made a link, and its path."""
    client.user.is_platform_admin = True
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    make_sign_in(db, user, workspace)
    db.merge(client.user)
    db.commit()
    return user, path_of(client.post(f"/admin/people/{user.id}/reset-link"))


def test_a_new_password_by_link(db, client, forgetful):
    user, path = forgetful
    client.cookies.clear()
    assert user.email in client.get(path).text
    assert client.post(path, data={"password": "short"}).status_code == 422
    done = client.post(path, data={"password": "another password"})
    assert done.is_redirect
    assert cookie_name() in done.headers["set-cookie"]
    live = select(SignIn).where(SignIn.user_id == user.id, SignIn.revoked_at.is_(None))
    assert len(db.scalars(live).all()) == 1  # those before have ended
    client.cookies.clear()
    old = client.post("/login", data={"email": user.email, "password": PASSWORD})
    assert old.status_code == 401
    new = client.post("/login", data={"email": user.email, "password": "another password"})
    assert new.is_redirect
    assert code_of(client.post(path, data={"password": "a third password"})) == "link_used"


def test_until_then_the_old_one_works_and_a_newer_link_replaces(db, client, forgetful):
    user, path = forgetful
    newer = path_of(client.post(f"/admin/people/{user.id}/reset-link"))
    assert code_of(client.get(path)) == "link_unknown"
    assert client.get(newer).status_code == 200
    db.execute(update(ResetLink).values(expires_at=now() - timedelta(seconds=1)))
    db.commit()
    assert code_of(client.get(newer)) == "link_expired"
    client.cookies.clear()
    assert client.post("/login", data={"email": user.email, "password": PASSWORD}).is_redirect


def test_a_disabled_account_stays_shut(db, client, forgetful):
    user, path = forgetful
    assert client.post(f"/admin/people/{user.id}/disable").is_redirect
    assert code_of(client.post(path, data={"password": "another password"})) == "disabled"
    assert client.post(f"/admin/people/{client.user.id}/reset-link").status_code == 409
