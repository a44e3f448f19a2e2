"""What every request passes before any route: pure ASGI, outermost first.

Trace, Proxies, Aliases, Catch, Hosts, Bodies, SameOrigin. Paths are read from `scope["path"]`.
"""

import ipaddress
import secrets
import time
from functools import lru_cache
from urllib.parse import quote, urlsplit

import structlog
from fastapi import Request
from fastapi.telemetry import TelemetryConfig
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import failures
from app.config import settings
from app.errors import N_, DomainError, Forbidden, TooLarge

log = structlog.get_logger()

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "object-src 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
# FastAPI's own, of which each request would ask whether somebody has set it up
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
SMALL_BODY = 16 * 2**20  # bytes of anything that is not an upload
PIECES = "/api/v1/uploads/"  # whose bodies are pieces of files
COMPATIBLE = "/dashscope/compatible-mode/v1"
SAFE = ("GET", "HEAD", "OPTIONS")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound to
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Middleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.handle(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


async def refuse(
    error: DomainError,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    close: bool = False,
) -> None:
    response = failures.respond(Request(scope, receive), error)
    if close:
        response.headers["connection"] = "close"
    await response(scope, receive, send)


class Trace(Middleware):
    """A request id, the server's time, security headers, and what may be cached."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = "req-" + secrets.token_hex(10)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = (time.perf_counter() - started) * 1000
                raw = list(message["headers"])
                said = {name for name, _ in raw}
                own = [
                    (b"x-request-id", request_id.encode()),
                    (b"cache-control", caching(scope, message["status"])),
                    *HEADERS,
                ]
                raw += [one for one in own if one[0] not in said]
                raw.append((b"server-timing", b"app;dur=%.1f" % took))
                message["headers"] = raw
            await send(message)

        await self.app(scope, receive, finish)


def caching(scope: Scope, status: int) -> bytes:
    """Static files whose address changes with their content are kept for ever."""
    path = scope["path"]
    if not path.startswith("/static/"):
        return b"no-store"
    versioned = path.startswith("/static/vendor/") or scope["query_string"].startswith(b"v=")
    if versioned and status in (200, 206, 304):
        return b"public, max-age=31536000, immutable"
    return b"no-cache"


class Proxies(Middleware):
    """X-Forwarded-For, -Proto and -Host count only from `DANLU_TRUSTED_PROXIES`."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client and trusted(client[0]):
            scope = dict(scope) | forwarded(scope)
        await self.app(scope, receive, send)


def trusted(address: str) -> bool:
    return within(address, settings.trusted_proxies)


@lru_cache(maxsize=4096)
def within(address: str, networks: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    named = [part.strip() for part in networks.split(",") if part.strip()]
    return any(ip in ipaddress.ip_network(network, strict=False) for network in named)


def forwarded(scope: Scope) -> dict[str, object]:
    """The client, scheme and headers as the trusted proxies saw them.

    Each proxy appends: the client is the last address that is not itself a trusted proxy.
    """
    headers = Headers(scope=scope)
    changes: dict[str, object] = {}
    hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",")]
    clients = [hop for hop in hops if hop and not trusted(hop)]
    if clients:
        changes["client"] = (clients[-1][:64], 0)
    scheme = headers.get("x-forwarded-proto", "").split(",")[-1].strip()
    if scheme in ("http", "https"):
        changes["scheme"] = scheme
    host = headers.get("x-forwarded-host", "").split(",")[-1].strip()
    if host:
        raw = [(name, value) for name, value in scope["headers"] if name != b"host"]
        changes["headers"] = [*raw, (b"host", host.encode("latin-1"))]
    return changes


class Aliases(Middleware):
    """What DashScope calls its compatible mode is `/v1`, all of it."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == COMPATIBLE or path.startswith(f"{COMPATIBLE}/"):
            path = "/v1" + path[len(COMPATIBLE) :]
            scope = dict(scope) | {"path": path, "raw_path": quote(path).encode()}
        await self.app(scope, receive, send)


class Catch(Middleware):
    """Whatever a route did not expect becomes a 500 with an id; nobody sees a trace."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started:  # half an answer is out: the connection has to break
                raise
            response = failures.unexpected(Request(scope, receive), error)
            await response(scope, receive, send)


class Hosts(Middleware):
    """Only our own names, so that a foreign name pointed at this address opens nothing."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not known_host(hosts[0]):
            error = DomainError(
                N_("This server is not known by that name. Its address is %(url)s."),
                code="unknown_host",
                url=settings.url,
            )
            await refuse(error, scope, receive, send)
        elif "\0" in scope["path"] or b"%00" in scope["query_string"]:
            error = DomainError(N_("An address cannot contain a NUL character."))
            await refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, send)


def known_host(header: str) -> bool:
    return ours(header, settings.public_url, settings.host)


@lru_cache(maxsize=4096)
def ours(header: str, public_url: str, bound: str) -> bool:
    try:
        name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return False
    own = urlsplit(public_url).hostname
    if name and name in (*LOOPBACK, bound.lower(), own):
        return True
    # Bound to every interface, any of the machine's addresses is ours. A numeric address
    # cannot be rebound to us by somebody's name server.
    return bound in EVERYWHERE and is_address(name)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Bodies(Middleware):
    """Refuses a body by its declared length before reading it, and counts it while it comes."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        upload = headers.get("content-type", "").startswith("multipart/") or (
            scope["method"] == "PATCH" and scope["path"].startswith(PIECES)
        )
        most = settings.max_upload_mb * 2**20 if upload else SMALL_BODY
        taken = 0

        async def count() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413)
            return message

        declared = headers.get("content-length", "0")
        if not declared.isdecimal():
            error = DomainError(N_("The Content-Length is not a number."))
            await refuse(error, scope, receive, send, close=True)
        elif int(declared) > most:
            await refuse(too_large(most), scope, receive, send, close=True)
        else:
            await self.app(scope, count, send)


def too_large(most: int) -> TooLarge:
    return TooLarge(
        N_("This is too large: at most %(most)s MiB are taken here."),
        most=most // 2**20,
    )


class SameOrigin(Middleware):
    """A browser's unsafe request must come from our own pages. API keys need no such proof."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        keyed = headers.get("authorization", "").lower().startswith("bearer ")
        if scope["method"] in SAFE or keyed or same_origin(scope, headers):
            await self.app(scope, receive, send)
            return
        error = Forbidden(
            N_("This request came from another site, so it was refused. Reload the page."),
            code="cross_site",
        )
        await refuse(error, scope, receive, send)


def same_origin(scope: Scope, headers: Headers) -> bool:
    """By Sec-Fetch-Site, else Origin. Without either it is no browser, so it may carry no cookie."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is not None:
        own = f"{scope['scheme']}://{headers['host']}"
        return origin.lower() in (own.lower(), origin_of(settings.url))
    return "cookie" not in headers


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
