"""Single sign-on against a provider on this machine, over HTTP, and whatever one might forge."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from bs4 import BeautifulSoup
from joserfc.jwk import ECKey
from sqlalchemy import select

from app.accounts import oidc, platform, service
from app.accounts.auth import cookie_name
from app.accounts.tables import Identity, Membership, PlatformSettings, SignIn, User
from app.config import settings
from app.errors import Invalid
from app.queue import redis
from tests.accounts.provider import CLIENT, SECRET, Provider, running
from tests.conftest import Client, sign_in
from tests.factories import make_invitation, make_user, make_workspace

LIN = {"sub": "lin-1", "email": "Lin@Example.com", "email_verified": True, "name": "林"}


@pytest.fixture
def provider(db, anonymous: Client, monkeypatch) -> Iterator[Provider]:
    monkeypatch.setattr(settings, "fetch_allow", "127.0.0.1")
    oidc.found.clear()
    oidc.keys_found.clear()
    with running() as one:
        one.claims = dict(LIN)
        setting(db, enabled=True, label="Lab SSO", issuer=one.issuer, client_id=CLIENT,
                client_secret=SECRET, create="everybody")  # fmt: skip
        yield one


def setting(db: Any, **values: Any) -> None:
    platform.change(db, None, oidc=values)
    db.commit()


def leave(client: Client, back: str = "/") -> str:
    """To the provider: the address that the browser is sent to."""
    away = client.get("/login/oidc", params={"next": back})
    assert away.status_code == 303, away.text
    return away.headers["location"]


def enter(client: Client, provider: Provider, **changes: str) -> Any:
    """There and back; `changes` to what the browser comes back with."""
    back = provider.authorize(leave(client)) | changes
    return client.get("/login/oidc/callback", params=back)


def why(response: Any) -> str:
    alert = BeautifulSoup(response.text, "lxml").select_one("[role=alert]")
    return alert.get_text(" ", strip=True) if alert else ""


def nobody(db: Any, client: Client) -> bool:
    return not db.scalars(select(SignIn)).all() and client.get("/").status_code == 303


# -- there and back ----------------------------------------------------------------------


def test_there_and_back(db, anonymous, provider):
    page = BeautifulSoup(anonymous.get("/login?next=/jobs").text, "lxml")
    button = page.select_one("[data-testid=oidc]")
    assert button.get_text(strip=True) == "Sign in with Lab SSO"
    url = leave(anonymous, "/jobs?a=1")
    assert url.startswith(f"{provider.issuer}/authorize?")
    asked = dict(parse_qsl(urlsplit(url).query))
    assert asked["redirect_uri"] == f"{settings.url}/login/oidc/callback"
    done = anonymous.get("/login/oidc/callback", params=provider.authorize(url))
    assert (done.status_code, done.headers["location"]) == (303, "/jobs?a=1")
    assert anonymous.get("/jobs").status_code == 200
    user = db.scalar(select(User))
    assert (user.email, user.name, user.password_hash) == ("lin@example.com", "林", None)
    assert service.workspaces_of(db, user.id)[0][0].personal_of == user.id
    anonymous.post("/logout")
    assert enter(anonymous, provider).is_redirect  # known by `sub` from now on
    assert len(db.scalars(select(User)).all()) == 1
    assert db.get(Identity, (provider.issuer, "lin-1")).user_id == user.id


def test_an_account_is_found_by_its_verified_address_then_by_sub(db, anonymous, provider):
    user = make_user(db, email="lin@example.com", name="Lin")
    team = make_workspace(db, owner=user)
    db.commit()
    assert enter(anonymous, provider).is_redirect
    assert team.name in anonymous.get("/").text
    provider.claims |= {"email": "moved@example.com", "email_verified": False}
    anonymous.cookies.clear()
    assert enter(anonymous, provider).is_redirect
    assert db.scalars(select(User.id)).all() == [user.id]


def test_an_address_that_only_userinfo_tells(db, anonymous, provider):
    provider.claims = {"sub": "lin-1"}
    provider.userinfo = dict(LIN)
    assert enter(anonymous, provider).is_redirect
    assert db.scalar(select(User.email)) == "lin@example.com"
    provider.userinfo = LIN | {"sub": "somebody-else"}
    anonymous.cookies.clear()
    assert "does not prove" in why(enter(anonymous, provider))


def test_only_those_invited(db, anonymous, provider):
    setting(db, create="invited")
    assert "Ask to be invited" in why(enter(anonymous, provider))
    assert db.scalars(select(User)).all() == []
    team = make_workspace(db)
    row, _ = make_invitation(db, team, make_user(db), email="lin@example.com", role="admin")
    db.commit()
    assert enter(anonymous, provider).is_redirect
    user = db.scalar(select(User).where(User.email == "lin@example.com"))
    assert db.get(Membership, (team.id, user.id)).role == "admin"
    db.refresh(row)
    assert row.accepted_by == user.id


def test_domains(db, anonymous, provider):
    setting(db, domains="example.org, @lab.cn")
    assert "certain domains" in why(enter(anonymous, provider))
    provider.claims["email"] = "lin@evil-lab.cn"
    assert "certain domains" in why(enter(anonymous, provider))
    provider.claims["email"] = "lin@lab.cn"
    assert enter(anonymous, provider).is_redirect


def test_groups_are_workspaces(db, anonymous, provider):
    vision = make_workspace(db, slug="vision")
    make_workspace(db, slug="other")
    setting(db, groups_claim="groups", groups="ml=team = vision: admin\nops = other: member")
    provider.claims["groups"] = ["ml=team", "x"]
    assert enter(anonymous, provider).is_redirect
    user = db.scalar(select(User).where(User.email == "lin@example.com"))
    mine = {space.slug: role for space, role in service.workspaces_of(db, user.id)}
    assert mine == {"lin": "owner", "vision": "admin"}
    db.get(Membership, (vision.id, user.id)).role = "viewer"
    db.commit()
    anonymous.cookies.clear()
    enter(anonymous, provider)
    db.expire_all()
    assert db.get(Membership, (vision.id, user.id)).role == "viewer"  # theirs to change here


def test_a_disabled_account_stays_out(db, anonymous, provider):
    assert enter(anonymous, provider).is_redirect
    user = db.scalar(select(User))
    user.disabled_at = user.created_at
    db.commit()
    anonymous.cookies.clear()
    assert "disabled" in why(enter(anonymous, provider))


def test_the_provider_changes_its_keys(db, anonymous, provider, monkeypatch):
    assert enter(anonymous, provider).is_redirect
    provider.key = ECKey.generate_key("P-256", {"kid": "two"})
    later = time.monotonic() + 6
    monkeypatch.setattr(oidc.time, "monotonic", lambda: later)
    anonymous.cookies.clear()
    assert enter(anonymous, provider).is_redirect


def test_signing_out_offers_the_providers_end(db, anonymous, provider):
    enter(anonymous, provider)
    out = anonymous.post("/logout")
    assert out.headers["location"] == "/login?out=oidc"
    page = anonymous.get("/login?out=oidc")
    assert "Sign out of Lab SSO as well" in page.text
    end = anonymous.get("/login/oidc/logout").headers["location"]
    assert end.startswith(f"{provider.issuer}/logout?client_id={CLIENT}&")


# -- what does not count -----------------------------------------------------------------


@pytest.mark.parametrize(
    "lies",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another client"},
        {"aud": None},
        {"aud": [CLIENT, "another"]},  # without azp
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"iat": 9_999_999_999},
        {"nbf": 9_999_999_999},
        {"sub": None},
    ],
    ids=str,
)
def test_a_token_that_proves_nothing(db, anonymous, provider, lies):
    provider.lies = lies
    refused = enter(anonymous, provider)
    assert refused.status_code == 401
    assert "does not prove who you are" in why(refused)
    assert nobody(db, anonymous)


@pytest.mark.parametrize("how", ["none", "HS256", "stranger"])
def test_a_token_signed_by_nobody(db, anonymous, provider, how):
    provider.how = how
    assert "does not prove who you are" in why(enter(anonymous, provider))
    assert nobody(db, anonymous)


def test_clocks_may_differ_by_two_minutes(db, anonymous, provider):
    provider.lies = {"exp": int(time.time()) - 60, "iat": int(time.time()) + 60}
    assert enter(anonymous, provider).is_redirect


@pytest.mark.parametrize("verified", [False, None, "false", 0, "yes"])
def test_an_address_that_is_not_verified(db, anonymous, provider, verified):
    victim = make_user(db, email="lin@example.com", is_platform_admin=True)
    make_workspace(db, owner=victim)
    db.commit()
    provider.claims["email_verified"] = verified
    refused = enter(anonymous, provider)
    assert refused.status_code == 403
    assert "not verified" in why(refused)
    assert nobody(db, anonymous)


def test_a_state_works_once_and_in_one_browser(db, anonymous, provider):
    back = provider.authorize(leave(anonymous))
    cookies = dict(anonymous.cookies)
    assert anonymous.get("/login/oidc/callback", params=back).is_redirect
    anonymous.cookies.clear()
    for name, value in cookies.items():
        anonymous.cookies.set(name, value, path="/login/oidc")
    assert "used already" in why(anonymous.get("/login/oidc/callback", params=back))
    stolen = provider.authorize(leave(anonymous))  # somebody else's browser is given the link
    anonymous.cookies.clear()
    assert "another browser" in why(anonymous.get("/login/oidc/callback", params=stolen))
    assert cookie_name() not in anonymous.cookies
    made_up = anonymous.get("/login/oidc/callback", params={"state": "x" * 43, "code": "y"})
    assert made_up.status_code == 401
    assert anonymous.get("/login/oidc/callback").status_code == 401


def test_a_late_return(db, anonymous, provider):
    back = provider.authorize(leave(anonymous))
    redis().flushdb()
    assert "took too long" in why(anonymous.get("/login/oidc/callback", params=back))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code": "another"}, "refused the sign-in"),
        ({"code": "", "error": "access_denied"}, "was cancelled"),
        ({"error": "<script>"}, "refused the sign-in"),
        ({"iss": "https://evil.example"}, "refused the sign-in"),
    ],
)
def test_a_return_without_a_good_code(db, anonymous, provider, changes, said):
    refused = enter(anonymous, provider, **changes)
    assert said in why(refused)
    assert "<script>" not in refused.text.split("<body")[1].split("</head>")[0].replace(
        "<script src", ""
    )
    assert nobody(db, anonymous)


def test_it_leads_nowhere_else(anonymous, provider):
    back = provider.authorize(leave(anonymous, "//evil.example"))
    done = anonymous.get("/login/oidc/callback", params=back)
    assert done.headers["location"] == "/"


# -- a provider that is not as it should be ----------------------------------------------


def test_a_private_provider_has_to_be_allowed(anonymous, provider, monkeypatch):
    monkeypatch.setattr(settings, "fetch_allow", "")
    refused = anonymous.get("/login/oidc")
    assert refused.status_code == 422
    assert "DANLU_FETCH_ALLOW" in why(refused)
    assert provider.asked == []


def test_one_that_calls_itself_otherwise(anonymous, provider):
    provider.says = {"issuer": "https://evil.example"}
    assert "calls itself https://evil.example" in why(anonymous.get("/login/oidc"))


@pytest.mark.parametrize("endpoint", ["token_endpoint", "jwks_uri", "authorization_endpoint"])
def test_one_whose_endpoints_lie_elsewhere_inside(anonymous, provider, endpoint):
    provider.says = {endpoint: "http://127.0.0.2:1/x"}  # inside, and not allowed
    assert anonymous.get("/login/oidc").status_code == 422
    provider.says = {endpoint: "ftp://x"}
    assert anonymous.get("/login/oidc").status_code == 422


def test_one_that_does_not_answer(anonymous, provider, db):
    setting(db, issuer="http://127.0.0.1:9")
    refused = anonymous.get("/login/oidc")
    assert refused.status_code == 503
    assert why(refused)


def test_off(db, anonymous):
    assert "oidc" not in anonymous.get("/login").text
    for path in ("/login/oidc", "/login/oidc/callback", "/login/oidc/logout"):
        assert anonymous.get(path).status_code == 404


# -- its settings ------------------------------------------------------------------------


def test_settings(db, anonymous):
    sign_in(db, anonymous, make_user(db, is_platform_admin=True))
    form = {"enabled": "true", "label": "SSO", "issuer": "https://sso.example.com",
            "client_id": "danlu", "client_secret": SECRET, "create": "invited"}  # fmt: skip
    assert anonymous.post("/admin/settings/oidc", data=form).is_redirect
    kept = db.get(PlatformSettings, 1).sections["oidc"]
    assert SECRET not in str(kept)
    assert platform.reveal(platform.read(db).oidc.client_secret) == SECRET
    page = anonymous.get("/admin/settings")
    assert SECRET not in page.text
    assert "There is one; leave this empty to keep it." in page.text
    wrong = anonymous.post("/admin/settings/oidc", data=form | {"issuer": ""})
    assert wrong.status_code == 422
    with pytest.raises(Invalid):
        platform.change(db, None, oidc={"groups": "no rule"})
