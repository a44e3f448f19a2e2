"""Signing in: throttle, sessions, passwords."""

from datetime import timedelta

import pytest
from argon2 import PasswordHasher, extract_parameters

from app.accounts import signin
from app.accounts.auth import digest, principal_of_cookie
from app.accounts.passwords import verify_password
from app.accounts.tables import SignIn
from app.db import now
from app.errors import Forbidden, Invalid, NotFound, TooMany, Unauthenticated
from app.queue import redis
from tests.factories import (
    PASSWORD,
    make_membership,
    make_principal,
    make_sign_in,
    make_user,
    make_workspace,
)


def attempt(db, email, password=PASSWORD, ip="10.0.0.1"):
    return signin.sign_in(db, email=email, password=password, ip=ip, user_agent="x" * 999)


def test_the_token_is_random_and_only_its_hash_is_kept(db):
    user = make_user(db, email="wang@example.com")
    workspace = make_workspace(db, owner=user)
    row, token = attempt(db, " Wang@example.com")
    assert row.token_hash == digest(token)
    assert token not in str(vars(row))
    assert len(token) == 43
    assert len(row.user_agent) == 300
    who = principal_of_cookie(db, token)
    assert (who.user_id, who.workspace_id, who.role) == (user.id, workspace.id, "owner")


def test_nobody_learns_whether_an_account_exists(db, monkeypatch):
    user = make_user(db)
    make_workspace(db, owner=user)
    gone = make_user(db, disabled_at=now())
    make_workspace(db, owner=gone)
    said, verified, verify = set(), [], PasswordHasher.verify

    def counted(hasher: PasswordHasher, stored: str, password: str) -> bool:
        verified.append(extract_parameters(stored))
        return verify(hasher, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    for number, email in enumerate([user.email, gone.email, "nobody@example.com", "'; --", "\x01"]):
        with pytest.raises(Unauthenticated) as caught:
            attempt(db, email, "wrong password", ip=f"10.0.0.{number}")
        said.add((caught.value.message, caught.value.code))
    assert len(said) == 1
    assert verified == 5 * [verified[0]]  # a hash each time, and all of them equally costly


def test_five_attempts_then_wait(db):
    user = make_user(db)
    make_workspace(db, owner=user)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            attempt(db, user.email, "wrong password")
    with pytest.raises(TooMany) as caught:
        attempt(db, user.email)  # the right password, and still
    assert 0 < caught.value.retry_after <= signin.WINDOW
    attempt(db, user.email, ip="10.0.0.2")  # another address is not held up
    with pytest.raises(TooMany):
        attempt(db, user.email)


def test_an_unknown_account_is_throttled_alike(db):
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            attempt(db, "nobody@example.com")
    with pytest.raises(TooMany):
        attempt(db, "nobody@example.com")


def test_one_address_cannot_try_many_accounts(db):
    redis().set("signin:10.0.0.1", signin.PER_ADDRESS, ex=60)
    with pytest.raises(TooMany) as caught:
        attempt(db, "somebody@example.com")
    assert caught.value.retry_after <= 60


def test_a_right_password_clears_the_count(db):
    user = make_user(db)
    make_workspace(db, owner=user)
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(Unauthenticated):
                attempt(db, user.email, "wrong password")
        attempt(db, user.email)


def test_without_redis_people_still_sign_in(db, monkeypatch):
    class Away:
        def __getattr__(self, name):
            raise ConnectionError

    monkeypatch.setattr(signin, "redis", Away)
    user = make_user(db)
    make_workspace(db, owner=user)
    attempt(db, user.email)


def test_in_no_workspace_there_is_nothing_to_sign_in_to(db):
    user = make_user(db)
    with pytest.raises(Forbidden) as caught:
        attempt(db, user.email)
    assert caught.value.code == "no_workspace"


@pytest.mark.parametrize(
    "ended",
    [
        {"revoked_at": now()},
        {"expires_at": now() - timedelta(seconds=1)},
        {"seen_at": now() - timedelta(days=8)},
    ],
)
def test_a_session_ends(db, ended):
    user = make_user(db)
    _, token = make_sign_in(db, user, make_workspace(db, owner=user), **ended)
    assert principal_of_cookie(db, token) is None
    assert signin.sign_ins(db, user.id) == []


def test_seen_at_is_written_once_a_minute(db):
    user = make_user(db)
    old = now() - timedelta(minutes=2)
    _, token = make_sign_in(db, user, make_workspace(db, owner=user), seen_at=old)
    who = principal_of_cookie(db, token)
    seen = db.get(SignIn, who.sign_in_id).seen_at
    assert seen > old
    principal_of_cookie(db, token)
    assert db.get(SignIn, who.sign_in_id).seen_at == seen


def test_the_workspace_in_view(db):
    user = make_user(db)
    first, second = make_workspace(db, owner=user), make_workspace(db)
    membership = make_membership(db, second, user, "viewer")
    _, token = make_sign_in(db, user, first)
    who = principal_of_cookie(db, token)
    with pytest.raises(NotFound):
        signin.switch_workspace(db, who, make_workspace(db).id)
    signin.switch_workspace(db, who, second.id)
    db.flush()
    who = principal_of_cookie(db, token)
    assert (who.workspace_id, who.role) == (second.id, "viewer")
    _, again = attempt(db, user.email)  # the next sign-in opens where the last one was
    assert principal_of_cookie(db, again).workspace_id == second.id
    db.delete(membership)
    db.flush()
    assert principal_of_cookie(db, token).workspace_id == first.id


def test_changing_the_password_ends_the_other_sign_ins(db):
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    _, token = make_sign_in(db, user, workspace)
    _, other = make_sign_in(db, user, workspace)
    who = principal_of_cookie(db, token)
    with pytest.raises(Invalid) as caught:
        signin.change_password(db, who, ip="1", current="wrong", password="a new password")
    assert caught.value.field == "current"
    with pytest.raises(Invalid):
        signin.change_password(db, who, ip="1", current=PASSWORD, password="short")
    signin.change_password(db, who, ip="1", current=PASSWORD, password="a new password")
    db.flush()
    assert verify_password(user.password_hash, "a new password")
    assert principal_of_cookie(db, token)
    assert principal_of_cookie(db, other) is None


def test_one_revokes_ones_own_only(db):
    user, other = make_user(db), make_user(db)
    workspace = make_workspace(db, owner=user)
    _, token = make_sign_in(db, user, workspace)
    who = principal_of_cookie(db, token)
    with pytest.raises(NotFound):
        signin.revoke(db, other.id, who.sign_in_id)
    signin.revoke(db, user.id, who.sign_in_id)
    db.flush()
    assert principal_of_cookie(db, token) is None


def test_a_principal_may_what_its_role_may(db):
    user = make_user(db)
    member = make_principal(user, make_workspace(db, owner=user), role="member")
    assert [member.may(role) for role in ("viewer", "member", "admin", "owner", "platform")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge, Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Version/17 Safari/605", "Safari, macOS"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0", "Firefox, Linux"),
        ("", ""),
        ("<script>", ""),
    ],
)
def test_browsers_by_the_names_people_use(agent, said):
    assert signin.browser(agent) == said
