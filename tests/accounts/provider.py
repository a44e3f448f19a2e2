"""A small OpenID provider on this machine, for tests: discovery, keys, codes with PKCE, tokens.

It signs in whoever `claims` says. What is put into `lies` overrides the claims of the next ID token;
`how` says how that is signed.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT, SECRET = "danlu", "a secret: of the client & more"
KEY, STRANGE = (RSAKey.generate_key(2048, {"kid": "one"}) for _ in range(2))


@dataclass
class Provider:
    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    lies: dict[str, Any] = field(default_factory=dict)
    how: str = "RS256"  # or none, HS256, stranger
    userinfo: dict[str, Any] | None = None
    says: dict[str, Any] = field(default_factory=dict)  # over its discovery document
    key: Any = field(default_factory=lambda: KEY)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # paths

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/logout",
        } | self.says

    def authorize(self, url: str) -> dict[str, str]:
        """The person agrees: what the browser is sent back with."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def redeem(self, form: dict[str, str], basic: str) -> dict[str, Any] | None:
        asked = self.codes.pop(form["code"], None)
        name, _, secret = base64.b64decode(basic).decode().partition(":")
        challenge = hashlib.sha256(form["code_verifier"].encode()).digest()
        right = (
            asked is not None
            and (unquote(name), unquote(secret)) == (CLIENT, SECRET)
            and form["redirect_uri"] == asked["redirect_uri"]
            and base64.urlsafe_b64encode(challenge).decode().rstrip("=") == asked["code_challenge"]
        )
        if not right or asked is None:
            return None
        return {
            "token_type": "Bearer",
            "access_token": "at",
            "id_token": self.signed(asked["nonce"]),
        }

    def signed(self, nonce: str) -> str:
        at = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": at,
            "exp": at + 300,
            "nonce": nonce,
            **self.claims,
            **self.lies,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.how == "none":
            parts = ({"alg": "none"}, claims)
            return (
                ".".join(
                    base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=")
                    for one in parts
                )
                + "."
            )
        if self.how == "HS256":  # with what everybody knows: the client's secret, or the public key
            return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET * 2))
        if self.how == "stranger":
            return jwt.encode({"alg": "RS256", "kid": "one"}, claims, STRANGE)
        alg = "ES256" if isinstance(self.key, ECKey) else "RS256"
        return jwt.encode({"alg": alg, "kid": self.key.kid}, claims, self.key)


@contextmanager
def running() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: Any, status: int = 200) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            provider.asked.append(self.path)
            if self.path == "/.well-known/openid-configuration":
                self.answer(provider.discovery())
            elif self.path == "/keys":
                self.answer({"keys": [provider.key.as_dict(private=False)]})
            elif self.path == "/userinfo" and self.headers["authorization"] == "Bearer at":
                self.answer(provider.userinfo or {}, 200 if provider.userinfo else 404)
            else:
                self.answer({}, 404)

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            length = int(self.headers["content-length"])
            form = dict(parse_qsl(self.rfile.read(length).decode()))
            basic = self.headers.get("authorization", "").removeprefix("Basic ")
            tokens = provider.redeem(form, basic)
            self.answer(tokens or {"error": "invalid_grant"}, 200 if tokens else 400)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
