"""Service accounts: programs with a role and keys, and nothing else."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.accounts import service, service_accounts
from app.accounts.tables import ApiKey, Membership, User
from app.errors import Conflict, Forbidden, NotFound
from tests.conftest import Client
from tests.factories import make_membership, make_principal, make_user, make_workspace


def soup(response: Any) -> BeautifulSoup:
    return BeautifulSoup(response.text, "lxml")


@pytest.fixture
def base(client: Client) -> str:
    return f"/workspaces/{client.workspace.id}/service-accounts"


@pytest.fixture
def made(client: Client, base: str) -> str:
    """The page of a service account with the role of a member."""
    done = client.post(base, data={"name": "Nightly <b>", "role": "member"})
    assert done.is_redirect
    return done.headers["location"]


def a_key(client: Client, page: str, *scopes: str) -> dict[str, str]:
    data = {"name": "cron", "scopes": list(scopes)}
    shown = soup(client.post(f"{page}/keys", data=data))
    return {"authorization": f"Bearer {shown.select_one('[data-testid=secret]').text}"}


def test_its_key_is_a_members(db, client, base, made):
    assert "Nightly &lt;b&gt;" in client.get(base).text
    key = a_key(client, made, "datasets:read", "jobs:write")
    me = client.get("/api/v1/datasets", headers=key)
    assert me.status_code == 200
    account = db.scalar(select(User).where(User.is_service))
    assert account.email == f"{account.id}@service.invalid"
    assert client.post("/api/v1/deployments", json={}, headers=key).status_code == 403  # its scopes
    (row,) = soup(client.get(made)).select("[data-testid=key-row]")
    assert "cron" in row.text
    assert client.get("/keys").text.count("cron") >= 1  # an admin sees it among all keys


def test_the_role_holds_whatever_the_scopes_say(db, client, base, made):
    key = a_key(client, made, "jobs:read", "jobs:write")
    assert client.post(made, data={"name": "Nightly", "role": "viewer"}).is_redirect
    body = {"name": "x", "model": "x", "dataset": "x", "stage": "sft", "method": "lora"}
    got = client.post("/api/v1/jobs", json=body | {"hyperparameters": {}}, headers=key)
    assert got.status_code == 403
    assert client.post(made, data={"name": "Nightly", "role": "owner"}).status_code == 422


def test_nobody_signs_in_as_it(db, client, made):
    account = db.scalar(select(User).where(User.is_service))
    client.cookies.clear()
    for password in ("", "None", "correct horse battery"):
        got = client.post("/login", data={"email": account.email, "password": password})
        assert got.status_code in (401, 422)


def test_it_outlives_who_made_it(db, client, base, made):
    key = a_key(client, made, "datasets:read")
    heir = make_user(db)
    make_membership(db, client.workspace, heir, "owner")
    db.commit()
    assert client.post(f"/workspaces/{client.workspace.id}/leave").is_redirect
    assert client.get("/api/v1/datasets", headers=key).status_code == 200


def test_disabled_and_deleted(db, client, base, made):
    key = a_key(client, made, "datasets:read")
    ask = lambda: client.get("/api/v1/datasets", headers=key).status_code  # noqa: E731
    client.post(made, data={"disabled": "true"})
    assert ask() == 401
    assert "Disabled" in client.get(base).text
    client.post(made, data={"disabled": "false"})
    assert ask() == 200
    assert client.post(f"{made}/delete").is_redirect
    assert ask() == 401
    assert client.get(made).status_code == 404
    account = db.scalar(select(User).where(User.is_service))
    assert account.name == "Nightly <b>"  # what it made keeps a name
    assert db.scalar(select(ApiKey.revoked_at).where(ApiKey.user_id == account.id))


def test_a_key_of_it_is_revoked(db, client, made):
    key = a_key(client, made, "datasets:read")
    (form,) = soup(client.get(made)).select("form[action$='/revoke']")
    assert client.post(form["action"]).is_redirect
    assert client.get("/api/v1/datasets", headers=key).status_code == 401
    assert client.post(form["action"]).status_code == 404


def test_it_is_no_person(db, client, made):
    """Not among the members, nor to be raised, removed or reset through their routes."""
    account = db.scalar(select(User).where(User.is_service))
    members = f"/workspaces/{client.workspace.id}/members"
    assert len(soup(client.get(members)).select("[data-testid=member-row]")) == 1
    assert client.post(f"{members}/{account.id}/role", data={"role": "owner"}).status_code == 404
    assert client.post(f"{members}/{account.id}/remove").status_code == 404
    handed = client.post(
        f"/workspaces/{client.workspace.id}/hand-over", data={"user_id": account.id}
    )
    assert handed.status_code == 422
    with pytest.raises(NotFound):
        service.get_user(db, account.id)
    person = f"/workspaces/{client.workspace.id}/service-accounts/{client.user.id}"
    assert client.get(person).status_code == 404
    assert client.post(f"{person}/delete").status_code == 404


@pytest.mark.parametrize("scope", ["account", "admin", "nonsense"])
def test_scopes_that_it_cannot_have(client, made, scope):
    refused = client.post(f"{made}/keys", data={"name": "x", "scopes": scope})
    assert refused.status_code == 422


def test_a_key_gives_no_more_than_it_has(db, client):
    workspace = make_workspace(db)
    who = make_principal(make_user(db), workspace, scopes=("members:write", "jobs:read"))
    account = service_accounts.create(db, who, name="x", role="member")
    with pytest.raises(Forbidden):
        service_accounts.issue_key(db, who, account.id, name="x", scopes=["jobs:write"])
    service_accounts.issue_key(db, who, account.id, name="x", scopes=["jobs:read"])


def test_names_are_unique_in_a_workspace(db, client, base, made):
    again = client.post(base, data={"name": "Nightly <b>", "role": "viewer"})
    assert again.status_code == 422
    assert "of this name" in soup(again).select_one("#e-name").text
    other = make_principal(make_user(db), make_workspace(db))
    service_accounts.create(db, other, name="Nightly <b>", role="viewer")
    with pytest.raises(Conflict):
        service_accounts.create(db, other, name=" Nightly <b> ", role="viewer")


def test_by_the_api(db, api):
    base = f"/api/v1/workspaces/{api.workspace.id}/service-accounts"
    made = api.post(base, json={"name": "CI", "role": "viewer"}).json()
    assert (made["role"], made["disabled"]) == ("viewer", False)
    key = api.post(f"{base}/{made['id']}/keys", json={"name": "k", "scopes": ["jobs:read"]}).json()
    headers = {"authorization": f"Bearer {key['secret']}"}
    assert api.get("/api/v1/jobs", headers=headers).status_code == 200
    assert api.get(base, headers=headers).status_code == 403
    (listed,) = api.get(f"{base}/{made['id']}/keys").json()["data"]
    assert "secret" not in listed
    assert api.patch(f"{base}/{made['id']}", json={"disabled": True}).json()["disabled"]
    assert api.get("/api/v1/jobs", headers=headers).status_code == 401
    assert [one["id"] for one in api.get(base).json()["data"]] == [made["id"]]
    assert api.delete(f"{base}/{made['id']}").status_code == 204
    assert api.get(f"{base}/{made['id']}").status_code == 404
    assert db.scalars(select(Membership.user_id)).all() == [api.user.id]
