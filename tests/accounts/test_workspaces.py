"""What people do with their workspaces."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.accounts import platform, service, workspaces
from app.accounts.tables import Membership, SignIn, User, Workspace
from app.errors import Conflict
from tests.conftest import Client, sign_in
from tests.factories import (
    PASSWORD,
    make_dataset,
    make_key,
    make_membership,
    make_principal,
    make_user,
    make_workspace,
)


def soup(response: Any) -> BeautifulSoup:
    return BeautifulSoup(response.text, "lxml")


# -- one's own ---------------------------------------------------------------------------


def test_everybody_gets_one_of_their_own(db):
    slugs = []
    for email in ("li.na@a.com", "li-na@b.com", "李@c.com"):
        user = service.create_user(db, email=email, name="李娜", password=PASSWORD)
        (own,) = service.workspaces_of(db, user.id)
        assert own[1] == "owner"
        assert (own[0].personal_of, own[0].name) == (user.id, "李娜")
        slugs.append(own[0].slug)
    assert slugs == ["li-na", "li-na-2", "workspace"]


def test_a_personal_one_stays(db, client):
    user = service.create_user(db, email="lin@example.com", name="Lin", password=PASSWORD)
    own = service.workspaces_of(db, user.id)[0][0]
    friend = make_user(db)
    make_membership(db, own, friend, "owner")
    sign_in(db, client, user, own)
    page = client.get(f"/workspaces/{own.id}/settings")
    assert page.status_code == 200
    assert not soup(page).select("[data-testid=leave-workspace], [data-testid=delete-workspace]")
    for what in ("leave", "delete"):
        assert client.post(f"/workspaces/{own.id}/{what}").status_code == 409
    handed = client.post(f"/workspaces/{own.id}/hand-over", data={"user_id": friend.id})
    assert handed.status_code == 422
    friends = make_principal(friend, own)
    with pytest.raises(Conflict):
        service.remove_member(db, friends, workspace_id=own.id, user_id=user.id)
    with pytest.raises(Conflict):
        service.set_role(db, friends, workspace_id=own.id, user_id=user.id, role="viewer")


def test_a_team_comes_first_and_the_last_one_used_is_remembered(db, anonymous):
    user = service.create_user(db, email="lin@example.com", name="Lin", password=PASSWORD)
    team = make_workspace(db, name="Team 丹")
    make_membership(db, team, user, "member")
    db.commit()
    data = {"email": user.email, "password": PASSWORD}

    def shown() -> str:
        return soup(anonymous.get("/")).select_one("[data-testid=workspace-switch]").text.strip()

    anonymous.post("/login", data=data)
    assert shown() == "Team 丹"
    own = db.scalar(select(Workspace).where(Workspace.personal_of == user.id))
    anonymous.post(f"/workspaces/{own.id}/switch")
    anonymous.post("/logout")
    anonymous.post("/login", data=data)
    assert shown() == "Lin"


# -- more --------------------------------------------------------------------------------


def test_who_makes_workspaces_is_a_setting(db, client):
    assert "platform admins" in client.get("/workspaces/new").text
    assert client.post("/workspaces", data={"name": "Vision"}).status_code == 403
    assert "/workspaces/new" not in client.get("/workspaces/menu").text
    platform.change(db, None, people={"create_workspaces": True})
    db.commit()
    assert "/workspaces/new" in client.get("/workspaces/menu").text
    made = client.post("/workspaces", data={"name": "Vision"})
    row = db.scalar(select(Workspace).where(Workspace.slug == "vision"))
    assert made.headers["location"] == f"/workspaces/{row.id}/settings"
    assert client.get(made.headers["location"]).status_code == 200  # though another is in view
    assert client.post("/workspaces", data={"name": " "}).status_code == 422


def test_an_api_key_makes_them_for_its_person_only(db, api):
    platform.change(db, None, people={"create_workspaces": True})
    other = make_user(db)
    db.commit()
    made = api.post("/api/v1/workspaces", json={"name": "Vision"})
    assert made.json()["role"] == "owner"
    refused = api.post("/api/v1/workspaces", json={"name": "x", "owner": other.email})
    assert refused.status_code == 403
    assert api.get(f"/api/v1/workspaces/{made.json()['id']}").status_code == 404  # not the key's


def test_renaming(db, client):
    path = f"/workspaces/{client.workspace.id}/settings"
    slug = client.workspace.slug
    assert client.post(path, data={"name": "Reviews <b>"}).is_redirect
    page = client.get(path)
    assert "Reviews &lt;b&gt;" in page.text
    assert slug in page.text
    assert client.post(path, data={"name": "x" * 81}).status_code == 422


def test_roles_are_those_held_there(db, client):
    """Owner of the one in view, and no more than a member of the other."""
    other = make_workspace(db)
    make_membership(db, other, client.user, "member")
    db.commit()
    assert client.get(f"/workspaces/{other.id}/settings").status_code == 200
    for path, data in (
        ("settings", {"name": "Mine"}),
        ("invitations", {"email": "a@b.c", "role": "owner"}),
        ("delete", {}),
        ("hand-over", {"user_id": client.user.id}),
    ):
        assert client.post(f"/workspaces/{other.id}/{path}", data=data).status_code == 403, path
    assert client.get(f"/workspaces/{other.id}/members").status_code == 403
    make_membership(db, admins := make_workspace(db), client.user, "admin")
    owner = db.scalar(
        select(Membership).where(Membership.workspace_id == admins.id, Membership.role == "owner")
    )
    db.commit()
    base = f"/workspaces/{admins.id}"
    assert client.get(f"{base}/members").status_code == 200
    raised = client.post(f"{base}/members/{client.user.id}/role", data={"role": "owner"})
    assert raised.status_code == 403
    assert client.post(f"{base}/members/{owner.user_id}/remove").status_code == 403


# -- leaving, handing over, deleting -----------------------------------------------------


def test_leaving(db, client):
    team = make_workspace(db)
    make_membership(db, team, client.user, "member")
    key = make_key(db, team, client.user)
    db.commit()
    assert client.post(f"/workspaces/{team.id}/leave").is_redirect
    assert client.get(f"/workspaces/{team.id}/settings").status_code == 404
    bearer = {"authorization": f"Bearer {key}"}
    assert client.get("/api/v1/me", headers=bearer).status_code == 401
    last = client.post(f"/workspaces/{client.workspace.id}/leave")
    assert last.status_code == 409
    assert "at least one owner" in last.text


def test_handing_over(db, client):
    heir = make_user(db)
    make_membership(db, client.workspace, heir, "viewer")
    db.commit()
    path = f"/workspaces/{client.workspace.id}/hand-over"
    for wrong in ("", client.user.id, "usr_none"):
        assert client.post(path, data={"user_id": wrong}).status_code == 422
    assert client.post(path, data={"user_id": heir.id}).is_redirect
    assert db.get(Membership, (client.workspace.id, heir.id)).role == "owner"
    assert db.get(Membership, (client.workspace.id, client.user.id)).role == "admin"
    assert client.post(path, data={"user_id": heir.id}).status_code == 403


def test_an_empty_one_is_deleted(db, client):
    own = service.create_user(db, email="lin@example.com", name="Lin", password=PASSWORD)
    make_membership(db, client.workspace, own, "member")
    make_key(db, client.workspace, client.user)
    home = make_workspace(db, owner=client.user, name="Home")
    db.commit()
    assert client.post(f"/workspaces/{client.workspace.id}/delete").is_redirect
    assert db.get(Workspace, client.workspace.id, populate_existing=True) is None
    assert db.scalar(select(SignIn.workspace_id)) == home.id
    assert "Home" in soup(client.get("/")).select_one("[data-testid=workspace-switch]").text


def test_one_with_data_stays(db, client):
    make_dataset(db, client.workspace)
    db.commit()
    refused = client.post(f"/workspaces/{client.workspace.id}/delete")
    assert refused.status_code == 409
    assert "it has datasets" in refused.text
    assert client.get("/").status_code == 200


def test_of_others_nothing_is_found(db, client):
    theirs = make_workspace(db)
    db.commit()
    for path in ("settings", "members"):
        assert client.get(f"/workspaces/{theirs.id}/{path}").status_code == 404
    for path in ("settings", "leave", "delete", "hand-over", "invitations"):
        assert client.post(f"/workspaces/{theirs.id}/{path}", data={}).status_code == 404


# -- platform admins ---------------------------------------------------------------------


@pytest.fixture
def admin(db, anonymous: Client) -> Client:
    sign_in(db, anonymous, make_user(db, is_platform_admin=True))
    return anonymous


def test_platform_admins_manage_every_workspace(db, admin):
    theirs = make_workspace(db, name="Theirs")
    member = make_user(db)
    make_membership(db, theirs, member, "member")
    db.commit()
    page = soup(admin.get(f"/workspaces/{theirs.id}/settings"))
    assert "you are here as a platform admin" in page.text
    path = f"/workspaces/{theirs.id}/hand-over"
    assert admin.post(path, data={"user_id": member.id}).is_redirect
    assert db.get(Membership, (theirs.id, member.id)).role == "owner"
    assert admin.post(f"/workspaces/{theirs.id}/leave").status_code == 404


def test_people(db, admin):
    new = make_user(db, email="mei@example.com", name="梅 <b>")
    make_workspace(db, owner=new, name="Mei's team")
    gone = make_user(db, email="gone@example.com", disabled_at=new.created_at)
    make_user(db, email="program@service.invalid", is_service=True)
    db.commit()

    def shown(query: str = "") -> list[str]:
        rows = soup(admin.get(f"/admin/people{query}")).select("[data-testid=user-row]")
        return [row.select_one(".small").text for row in rows]

    assert shown() == [gone.email, new.email, admin.user.email]
    assert shown("?q=MEI") == [new.email]
    assert shown("?q=梅") == [new.email]
    assert shown("?q=%25") == []
    assert shown("?state=disabled") == [gone.email]
    assert shown("?state=admin") == [admin.user.email]
    page = admin.get("/admin/people")
    assert "梅 &lt;b&gt;" in page.text
    assert "Mei&#39;s team" in page.text
    assert admin.post(f"/admin/people/{new.id}/admin").is_redirect
    assert shown("?state=admin") == [new.email, admin.user.email]
    assert admin.post(f"/admin/people/{admin.user.id}/no-admin").status_code == 409
    assert admin.post(f"/admin/people/{new.id}/no-admin").is_redirect
    assert admin.post(f"/admin/people/{gone.id}/admin").status_code == 409
    assert admin.post(f"/admin/people/{new.id}/disable").is_redirect
    assert shown("?state=disabled") == [gone.email, new.email]
    assert admin.post(f"/admin/people/{new.id}/enable").is_redirect
    assert admin.post(f"/admin/people/{admin.user.id}/disable").status_code == 409
    assert admin.post("/admin/people/usr_none/disable").status_code == 404


def test_inviting_to_the_platform(db, admin):
    made = admin.post("/admin/people/invite", data={"email": "new@example.com"})
    url = soup(made).select_one("[data-testid=one-time-link]").text
    (row,) = soup(admin.get("/admin/people")).select("[data-testid=invitation-row]")
    assert "new@example.com" in row.text
    assert admin.post("/admin/people/invite", data={"email": admin.user.email}).status_code == 422
    admin.cookies.clear()
    path = "/" + url.split("/", 3)[3]
    assert admin.post(path, data={"name": "New", "password": PASSWORD}).is_redirect
    user = db.scalar(select(User).where(User.email == "new@example.com"))
    assert [space.personal_of for space, _ in service.workspaces_of(db, user.id)] == [user.id]
    assert workspaces.may_create(db, make_principal(user, make_workspace(db))) is False
