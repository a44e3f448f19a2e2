"""Users, workspaces, members, keys: the rules."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.accounts import keys, service, signin
from app.accounts.auth import SCOPES, digest, principal_of_key
from app.accounts.tables import ApiKey, SignIn, User
from app.db import now
from app.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from tests.factories import (
    PASSWORD,
    make_key,
    make_membership,
    make_principal,
    make_sign_in,
    make_user,
    make_workspace,
)

# -- users -------------------------------------------------------------------------------


def test_an_address_is_kept_lower_case_and_belongs_to_one_user(db):
    user = service.create_user(db, email=" Wang@Example.COM ", name="", password=PASSWORD)
    assert (user.email, user.name) == ("wang@example.com", "wang")
    assert user.password_hash.startswith("$argon2id$")
    with pytest.raises(Conflict) as caught:
        service.create_user(db, email="WANG@example.com", name="", password=PASSWORD)
    assert caught.value.field == "email"


@pytest.mark.parametrize("email", ["", "wang", "a@b@c", "a b@c.d", "@x.y", "x@", "a\0b@c.d"])
def test_what_is_no_address_is_refused(db, email):
    with pytest.raises(Invalid):
        service.create_user(db, email=email, name="", password=PASSWORD)


@pytest.mark.parametrize("password", ["short", "x" * 201])
def test_a_password_is_neither_short_nor_endless(db, password):
    with pytest.raises(Invalid) as caught:
        service.create_user(db, email="a@b.c", name="", password=password)
    assert caught.value.field == "password"


def test_disabling_ends_sign_ins_and_keys(db):
    user, admin = make_user(db), make_user(db)
    workspace = make_workspace(db, owner=user)
    secret = make_key(db, workspace, user)
    make_sign_in(db, user, workspace)
    who = make_principal(admin, workspace)
    service.disable_user(db, who, user.id)
    db.flush()
    assert signin.sign_ins(db, user.id) == []
    with pytest.raises(Unauthenticated):
        principal_of_key(db, secret)
    service.disable_user(db, who, user.id, disabled=False)
    db.flush()
    assert principal_of_key(db, secret).user_id == user.id
    with pytest.raises(Conflict):
        service.disable_user(db, who, admin.id)


# -- workspaces and members --------------------------------------------------------------


def test_slugs_are_ascii_and_unique(db):
    user = make_user(db)
    slugs = [
        service.create_workspace(db, name=name, owner=user).slug
        for name in ("Vision Team!", "vision team", "视觉组", "视觉组")
    ]
    assert slugs == ["vision-team", "vision-team-2", "workspace", "workspace-2"]


def test_inviting_makes_an_account_only_where_there_is_none(db):
    owner = make_user(db)
    workspace = make_workspace(db, owner=owner)
    who = make_principal(owner, workspace)
    asked = {"workspace_id": workspace.id, "name": "", "role": "member"}
    user, password = service.invite(db, who, email="new@example.com", **asked)
    assert password
    assert (
        signin.sign_in(db, email="new@example.com", password=password, ip="1", user_agent="")[
            0
        ].user_id
        == user.id
    )
    other = make_user(db)
    assert service.invite(db, who, email=other.email.upper(), **asked) == (other, None)
    with pytest.raises(Conflict):
        service.invite(db, who, email=other.email, **asked)


def test_only_owners_make_and_unmake_owners(db):
    owner, admin, other = make_user(db), make_user(db), make_user(db)
    workspace = make_workspace(db, owner=owner)
    make_membership(db, workspace, admin, "admin")
    make_membership(db, workspace, other, "owner")
    who = make_principal(admin, workspace, role="admin")
    with pytest.raises(Forbidden):
        service.set_role(db, who, workspace_id=workspace.id, user_id=admin.id, role="owner")
    with pytest.raises(Forbidden):
        service.remove_member(db, who, workspace_id=workspace.id, user_id=other.id)
    with pytest.raises(Invalid):
        service.set_role(db, who, workspace_id=workspace.id, user_id=admin.id, role="emperor")
    service.set_role(
        db,
        make_principal(owner, workspace),
        workspace_id=workspace.id,
        user_id=other.id,
        role="viewer",
    )
    assert service.membership(db, workspace.id, other.id).role == "viewer"


def test_the_last_owner_stays(db):
    owner = make_user(db)
    workspace = make_workspace(db, owner=owner)
    who = make_principal(owner, workspace)
    for change in (
        lambda: service.remove_member(db, who, workspace_id=workspace.id, user_id=owner.id),
        lambda: service.set_role(
            db, who, workspace_id=workspace.id, user_id=owner.id, role="member"
        ),
    ):
        with pytest.raises(Conflict) as caught:
            change()
        assert caught.value.code == "last_owner"
    service.set_role(db, who, workspace_id=workspace.id, user_id=owner.id, role="owner")


def test_leaving_a_workspace_ends_its_keys(db):
    owner, member = make_user(db), make_user(db)
    workspace, elsewhere = make_workspace(db, owner=owner), make_workspace(db, owner=member)
    make_membership(db, workspace, member, "member")
    here, there = make_key(db, workspace, member), make_key(db, elsewhere, member)
    service.remove_member(
        db, make_principal(owner, workspace), workspace_id=workspace.id, user_id=member.id
    )
    with pytest.raises(Unauthenticated):
        principal_of_key(db, here)
    assert principal_of_key(db, there).workspace_id == elsewhere.id
    make_membership(db, workspace, member, "member")  # coming back does not revive it
    with pytest.raises(Unauthenticated):
        principal_of_key(db, here)


def test_who_manages_a_workspace(db):
    owner, root = make_user(db), make_user(db, is_platform_admin=True)
    mine, other = make_workspace(db, owner=owner), make_workspace(db)
    home = make_workspace(db, owner=root)
    assert service.administered(db, make_principal(owner, mine), mine.id).role == "owner"
    acting = service.administered(db, make_principal(root, home), mine.id)
    assert (acting.workspace_id, acting.role) == (mine.id, "owner")
    with pytest.raises(NotFound):
        service.administered(db, make_principal(owner, mine), other.id)
    with pytest.raises(Forbidden):
        service.administered(db, make_principal(owner, mine, role="member"), mine.id)
    with pytest.raises(NotFound):
        service.administered(db, make_principal(root, home), "ws_none")


# -- keys --------------------------------------------------------------------------------


def test_a_key_acts_in_its_workspace_with_its_users_role_of_now(db):
    user = make_user(db, is_platform_admin=True)
    workspace = make_workspace(db)
    membership = make_membership(db, workspace, user, "admin")
    row, secret = service.create_api_key(
        db, workspace_id=workspace.id, user_id=user.id, name="x", scopes=["inference"]
    )
    assert secret.startswith("dk-")
    assert row.secret_hash == digest(secret)
    who = service.principal_of_key(db, secret)
    assert (who.workspace_id, who.role, who.scopes) == (workspace.id, "admin", ("inference",))
    assert not who.is_platform_admin  # the scope `admin` is missing
    membership.role = "viewer"
    db.flush()
    assert service.principal_of_key(db, secret).role == "viewer"
    assert row.used_at is not None


def test_a_key_ends(db):
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    for ending in (
        {"expires_at": now() - timedelta(seconds=1)},
        {"revoked_at": now() - timedelta(seconds=1)},
    ):
        with pytest.raises(Unauthenticated) as caught:
            principal_of_key(db, make_key(db, workspace, user, **ending))
        assert caught.value.code == "invalid_api_key"
    soon = make_key(db, workspace, user, expires_at=now() + timedelta(minutes=1))
    assert principal_of_key(db, soon)


@pytest.mark.parametrize(
    "secret",
    ["", "dk-", "dk-' OR 1=1 --" + "x" * 29, "dk-" + "x" * 2**20, "dk-\0" + "x" * 42, "丹" * 46],
)
def test_a_hostile_key_is_only_wrong(db, secret):
    with pytest.raises(Unauthenticated):
        principal_of_key(db, secret)


def test_nobody_gives_a_key_more_than_they_have(db):
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    who = make_principal(user, workspace, scopes=("account", "inference"))
    assert keys.scopes_for(who) == ["inference", "account"]
    keys.issue_api_key(db, who, name="x", scopes=["inference"], expires_at=None)
    for scope in ("jobs:write", "admin"):
        with pytest.raises(Forbidden):
            keys.issue_api_key(db, who, name="x", scopes=[scope], expires_at=None)
    for scopes in ([], ["unknown"]):
        with pytest.raises(Invalid) as caught:
            keys.issue_api_key(db, who, name="x", scopes=scopes, expires_at=None)
        assert caught.value.field == "scopes"
    with pytest.raises(Invalid):
        keys.issue_api_key(db, who, name="x", scopes=["inference"], expires_at=now())


def test_keys_are_ones_own_or_for_an_admin(db):
    owner, member = make_user(db), make_user(db)
    workspace = make_workspace(db, owner=owner)
    make_membership(db, workspace, member, "member")
    make_key(db, workspace, owner)
    make_key(db, workspace, member)
    make_key(db, make_workspace(db, owner=owner), owner)
    boss, worker = (
        make_principal(owner, workspace),
        make_principal(member, workspace, role="member"),
    )
    assert len(keys.list_api_keys(db, boss)) == 2
    ((mine, _),) = keys.list_api_keys(db, worker)
    others = next(key for key, user in keys.list_api_keys(db, boss) if user.id == owner.id)
    with pytest.raises(NotFound):
        keys.revoke_api_key(db, worker, others.id)
    keys.revoke_api_key(db, boss, mine.id)
    db.flush()
    assert keys.list_api_keys(db, worker) == []


# -- the first run -----------------------------------------------------------------------


def test_bootstrap_once(db):
    made = service.bootstrap(db)
    assert made.keys() == {"email", "password", "api_key", "workspace"}
    who = principal_of_key(db, made["api_key"])
    assert (who.is_platform_admin, who.role, who.workspace_id) == (True, "owner", made["workspace"])
    assert who.scopes == SCOPES
    signed, _ = signin.sign_in(
        db, email=made["email"], password=made["password"], ip="1", user_agent=""
    )
    assert signed.workspace_id == made["workspace"]
    assert service.bootstrap(db) is None
    assert db.scalar(select(func.count()).select_from(User)) == 1
    assert db.scalar(select(func.count()).select_from(ApiKey)) == 1
    assert db.scalar(select(func.count()).select_from(SignIn)) == 1
