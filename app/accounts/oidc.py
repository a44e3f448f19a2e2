"""Single sign-on by OpenID Connect Core 1.0: authorization code with PKCE (RFC 7636), state and nonce.

Whatever is asked of the provider goes through `app.fetching`: a private one needs `DANLU_FETCH_ALLOW`.
A sign-in on its way is kept in Redis for ten minutes, bound to the browser that began it, and taken
out by whoever comes back first.
"""

import ipaddress
import json
import secrets
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from redis.exceptions import RedisError

from app import addresses, fetching
from app.accounts import platform
from app.accounts.auth import digest
from app.accounts.platform import Oidc
from app.errors import N_, DomainError, Unauthenticated, Unavailable
from app.queue import redis

log = structlog.get_logger()

LASTS = 600  # seconds between leaving for the provider and coming back
FRESH = 600  # seconds that what a provider says of itself is kept
SKEW = 120  # seconds that its clock may differ from ours
LARGEST = 512 * 1024  # bytes of any answer
# With a private key of the provider's only: `none` and the HMACs, whose key is the client's, are out.
ALGORITHMS = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
]  # fmt: skip


class Failed(Unauthenticated):
    """A sign-in at the provider that does not count. Why in detail stands in the log."""

    code = "sso"


@dataclass(frozen=True)
class Provider:
    """What a provider says of itself (OpenID Connect Discovery 1.0)."""

    issuer: str
    authorization: str
    token: str
    keys: str
    userinfo: str
    end_session: str
    methods: tuple[str, ...]  # in which a client proves itself


@dataclass(frozen=True)
class Attempt:
    """A sign-in on its way."""

    nonce: str
    verifier: str
    back: str
    browser: str  # digest of the cookie of who began it


found: dict[str, tuple[float, Provider]] = {}
keys_found: dict[str, tuple[float, KeySet]] = {}


# -- what the provider says of itself ----------------------------------------------------


def ask(url: str, headers: dict[str, str] | None = None) -> Any:
    """JSON at an address of the provider. Raises Refused, Interrupted, Failed."""
    _, body = fetching.read(safe(url), limit=LARGEST, seconds=15, headers=headers or {})
    return parsed(body)


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise Failed(N_("The sign-in provider's answer cannot be read.")) from None


def safe(url: str) -> str:
    """Raises Refused unless it is https, or an address inside that `DANLU_FETCH_ALLOW` names."""
    target = addresses.parse(url)
    if target.scheme == "https":
        return url
    for one in addresses.resolve(target.host, target.port):
        if addresses.public(ipaddress.ip_address(one)):
            raise addresses.Refused(
                N_("The sign-in provider's addresses have to begin with https://."),
                code="address.scheme",
            )
    return url


def discover(issuer: str) -> Provider:
    """Kept for ten minutes. Raises Refused, Interrupted, Failed."""
    at, provider = found.get(issuer, (0.0, None))
    if provider and time.monotonic() - at < FRESH:
        return provider
    said = ask(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if not isinstance(said, dict) or said.get("issuer") != issuer:
        raise Failed(
            N_("The sign-in provider calls itself %(name)s, not as it is set up."),
            name=str(said.get("issuer"))[:200] if isinstance(said, dict) else "?",
        )
    try:
        provider = Provider(
            issuer=issuer,
            authorization=safe(said["authorization_endpoint"]),
            token=safe(said["token_endpoint"]),
            keys=safe(said["jwks_uri"]),
            userinfo=str(said.get("userinfo_endpoint") or ""),
            end_session=str(said.get("end_session_endpoint") or ""),
            methods=tuple(
                said.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
            ),
        )
    except (KeyError, TypeError, AttributeError):
        raise Failed(N_("The sign-in provider's answer cannot be read.")) from None
    found[issuer] = (time.monotonic(), provider)
    return provider


def keys_of(provider: Provider, *, anew: bool = False) -> KeySet:
    """Its public keys, kept for ten minutes unless one is missing: `anew`."""
    at, keys = keys_found.get(provider.keys, (0.0, None))
    age = time.monotonic() - at
    if keys and age < FRESH and not (anew and age > 5):
        return keys
    try:
        keys = KeySet.import_key_set(ask(provider.keys))
    except (JoseError, ValueError, KeyError, TypeError, AttributeError):
        raise Failed(N_("The sign-in provider's answer cannot be read.")) from None
    keys_found[provider.keys] = (time.monotonic(), keys)
    return keys


# -- there -------------------------------------------------------------------------------


def begin(oidc: Oidc, *, redirect_uri: str, back: str) -> tuple[str, str]:
    """Where to send the browser, and a secret for its cookie, which has to come back with it."""
    provider = discover(oidc.issuer)
    state, nonce, browser = (secrets.token_urlsafe(32) for _ in range(3))
    verifier = secrets.token_urlsafe(48)
    kept = {"nonce": nonce, "verifier": verifier, "back": back, "browser": digest(browser)}
    try:
        redis().set(f"oidc:{digest(state)}", json.dumps(kept), ex=LASTS)
    except (RedisError, OSError) as error:
        log.warning("sign-in not kept", error=str(error))
        raise Unavailable(N_("Signing in is not possible right now. Try again.")) from None
    asked = {
        "response_type": "code",
        "client_id": oidc.client_id,
        "redirect_uri": redirect_uri,
        "scope": "openid email profile",
        "state": state,
        "nonce": nonce,
        "code_challenge": create_s256_code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    join = "&" if "?" in provider.authorization else "?"
    return f"{provider.authorization}{join}{urlencode(asked)}", browser


def taken(state: str, browser: str) -> Attempt:
    """The attempt that `state` names, which works once and in one browser. Raises Failed."""
    try:
        kept = redis().getdel(f"oidc:{digest(state)}")
    except (RedisError, OSError):
        raise Unavailable(N_("Signing in is not possible right now. Try again.")) from None
    attempt = Attempt(**json.loads(kept)) if kept else None
    if attempt is None or not secrets.compare_digest(attempt.browser, digest(browser)):
        raise Failed(
            N_(
                "This sign-in took too long, was used already, or began in another browser. Try again."
            )
        )
    return attempt


# -- and back ----------------------------------------------------------------------------


def finish(oidc: Oidc, attempt: Attempt, *, code: str, redirect_uri: str) -> dict[str, Any]:
    """The claims about who signed in, verified. Raises Failed, Refused, Interrupted."""
    provider = discover(oidc.issuer)
    tokens = redeemed(oidc, provider, attempt, code, redirect_uri)
    claims = verified(oidc, provider, str(tokens.get("id_token") or ""), attempt.nonce)
    if "email" not in claims and provider.userinfo and tokens.get("access_token"):
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        more = ask(provider.userinfo, bearer)
        if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
            raise Failed(N_("The sign-in provider's answer does not prove who you are."))
        claims = more | claims
    return claims


def redeemed(
    oidc: Oidc, provider: Provider, attempt: Attempt, code: str, redirect_uri: str
) -> dict[str, Any]:
    """The tokens that the code stands for."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": attempt.verifier,
    }
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "accept": "application/json",
    }
    secret = platform.reveal(oidc.client_secret)
    if secret and "client_secret_basic" in provider.methods:
        pair = f"{quote(oidc.client_id, safe='')}:{quote(secret, safe='')}"
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    else:
        form |= {"client_id": oidc.client_id} | ({"client_secret": secret} if secret else {})
    status, body = fetching.exchange(
        provider.token, urlencode(form).encode(), limit=LARGEST, headers=headers
    )
    answer = parsed(body)
    if status != 200 or not isinstance(answer, dict):
        log.warning("sign-in code refused", status=status, error=str(answer)[:200])
        raise Failed(N_("The sign-in provider refused the sign-in. Try again."))
    return answer


def verified(oidc: Oidc, provider: Provider, token: str, nonce: str) -> dict[str, Any]:
    """The claims of an ID token: signature, issuer, audience, times and nonce have to be right."""
    try:
        try:
            decoded = jwt.decode(token, keys_of(provider), algorithms=ALGORITHMS)
        except (JoseError, ValueError):  # its keys may have changed
            decoded = jwt.decode(token, keys_of(provider, anew=True), algorithms=ALGORITHMS)
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            options={
                "iss": {"essential": True, "value": provider.issuer},
                "aud": {"essential": True, "value": oidc.client_id},
                "sub": {"essential": True},
                "nonce": {"essential": True, "value": nonce},
            },
            params={"nonce": nonce, "client_id": oidc.client_id},
        )
        claims.validate(leeway=SKEW)
    except DomainError:
        raise
    except (JoseError, ValueError, TypeError, KeyError) as error:
        log.warning("ID token refused", error=str(error)[:200])
        raise Failed(N_("The sign-in provider's answer does not prove who you are.")) from None
    return dict(claims)


def declined(error: str) -> Failed:
    """What the provider said in place of a code."""
    if error == "access_denied":
        return Failed(N_("The sign-in was cancelled, or the provider does not let you in here."))
    log.warning("sign-in refused by the provider", error=error[:200])
    return Failed(N_("The sign-in provider refused the sign-in. Try again."))


def goodbye(oidc: Oidc, back: str) -> str:
    """Where one signs out of the provider, too; empty if it offers nothing."""
    end = discover(oidc.issuer).end_session
    if not end:
        return ""
    asked = {"client_id": oidc.client_id, "post_logout_redirect_uri": back}
    return f"{safe(end)}{'&' if '?' in end else '?'}{urlencode(asked)}"
