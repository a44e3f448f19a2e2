"""JSON: me, keys, workspaces, members."""

from datetime import timedelta

import pytest

from app.db import now
from tests.factories import make_key, make_membership, make_user, make_workspace


def test_me(api):
    body = api.get("/api/v1/me").json()
    assert body["id"] == api.user.id
    assert body["workspace"] == {"id": api.workspace.id, "name": api.workspace.name}
    assert (body["role"], body["is_platform_admin"]) == ("owner", False)


def test_keys(api):
    later = (now() + timedelta(days=1)).isoformat()
    made = api.post(
        "/api/v1/keys", json={"name": "ci", "scopes": ["inference"], "expires_at": later}
    )
    assert made.status_code == 201
    secret = made.json().pop("secret")
    assert secret.startswith("dk-")
    listed = api.get("/api/v1/keys").json()
    assert listed["has_more"] is False
    assert len(listed["data"]) == 2
    assert secret not in str(listed)
    key_id = made.json()["id"]
    assert api.delete(f"/api/v1/keys/{key_id}").status_code == 204
    assert len(api.get("/api/v1/keys").json()["data"]) == 1
    assert api.delete("/api/v1/keys/key_none").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["everything"]},
        {"name": " ", "scopes": ["inference"]},
        {"name": "x" * 81, "scopes": ["inference"]},
        {"name": "x", "scopes": ["inference"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["inference"], "expires_at": "2030-01-01T00:00:00"},
        [],
    ],
)
def test_a_key_that_makes_no_sense(api, body):
    assert api.post("/api/v1/keys", json=body).status_code == 422
    assert len(api.get("/api/v1/keys").json()["data"]) == 1


def test_a_key_makes_no_stronger_key(db, api):
    weak = make_key(db, api.workspace, api.user, scopes=["account"])
    db.commit()
    headers = {"authorization": f"Bearer {weak}"}
    body = {"name": "x", "scopes": ["jobs:write"]}
    assert api.post("/api/v1/keys", json=body, headers=headers).status_code == 403


def test_workspaces_are_made_by_platform_admins(db, api):
    assert api.post("/api/v1/workspaces", json={"name": "Vision"}).status_code == 403
    assert [w["id"] for w in api.get("/api/v1/workspaces").json()["data"]] == [api.workspace.id]
    api.user.is_platform_admin = True
    db.merge(api.user).is_platform_admin = True
    other = make_user(db)
    db.commit()
    made = api.post("/api/v1/workspaces", json={"name": "Vision", "owner": other.email})
    assert made.status_code == 201
    assert made.json()["slug"] == "vision"
    members = api.get(f"/api/v1/workspaces/{made.json()['id']}/members").json()["data"]
    assert [(one["email"], one["role"]) for one in members] == [(other.email, "owner")]
    nobody = api.post("/api/v1/workspaces", json={"name": "x", "owner": "nobody@example.com"})
    assert nobody.status_code == 422
    assert nobody.json()["errors"][0]["field"] == "owner"
    shown = api.get("/api/v1/workspaces").json()["data"]
    assert {one["role"] for one in shown} == {"owner", None}


def test_members(db, api):
    path = f"/api/v1/workspaces/{api.workspace.id}/members"
    made = api.post(path, json={"email": "new@example.com", "role": "viewer"})
    assert made.status_code == 201
    assert made.json()["password"]
    user_id = made.json()["id"]
    assert api.patch(f"{path}/{user_id}", json={"role": "admin"}).json()["role"] == "admin"
    assert api.patch(f"{path}/{api.user.id}", json={"role": "viewer"}).status_code == 409
    assert {one["role"] for one in api.get(path).json()["data"]} == {"owner", "admin"}
    assert api.delete(f"{path}/{user_id}").status_code == 204
    assert api.delete(f"{path}/{user_id}").status_code == 404
    assert api.post(path, json={"email": "no address"}).status_code == 422


def test_a_member_manages_nobody(db, api):
    member = make_user(db)
    make_membership(db, api.workspace, member, "member")
    headers = {"authorization": f"Bearer {make_key(db, api.workspace, member)}"}
    db.commit()
    path = f"/api/v1/workspaces/{api.workspace.id}/members"
    assert api.get(path, headers=headers).status_code == 403
    elsewhere = make_workspace(db)
    db.commit()
    assert api.get(f"/api/v1/workspaces/{elsewhere.id}/members").status_code == 404
