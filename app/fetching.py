"""Fetches addresses that users give. Only public ones, or what `DANLU_FETCH_ALLOW` names.

A name is resolved once, each of its addresses is looked at, and the connection goes to an address
that passed: a name server cannot answer differently in between. So it is for every redirect. No
proxy, cookie or credential of this machine is used.

    with fetching.stream(url, limit=2**30) as answer:
        for chunk in answer.chunks: ...
"""

import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpcore
import httpx

from app.addresses import Interrupted, Refused, Target, parse, resolve
from app.errors import N_, TooLarge

REDIRECTS = 5
CONNECT = 10.0  # seconds, for each address of a name
SILENCE = 30.0  # seconds without a byte
MOVED = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429)  # as with 5xx, the same request may well be answered later


@dataclass
class Answer:
    """What an address gives. `chunks` raises Interrupted or TooLarge."""

    url: str  # after redirects
    headers: Mapping[str, str]  # names in lower case
    offset: int  # of the first chunk: 0 unless the server went on from where it was asked to
    size: int | None  # bytes of the whole, if said
    chunks: Iterator[bytes]

    @property
    def validator(self) -> str:
        """What `validator` of a later request proves the sameness with; empty if nothing does."""
        etag = self.headers.get("etag", "")
        return self.headers.get("last-modified", "") if etag[:2] in ("", "W/") else etag

    @property
    def resumable(self) -> bool:
        return self.offset > 0 or self.headers.get("accept-ranges", "").lower() == "bytes"

    @property
    def name(self) -> str:
        """The file's name as the server or else the address says; from outside, may be empty."""
        for part in self.headers.get("content-disposition", "").split(";")[1:]:
            key, _, value = part.strip().partition("=")
            if key.lower() == "filename*":
                return unquote(value.rpartition("'")[2])
            if key.lower() == "filename":
                return value.strip('" ')
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


# -- the connection ----------------------------------------------------------------------


class Bounded(httpcore.NetworkStream):
    """A stream whose every operation ends when the time for all of them is over."""

    def __init__(self, inner: httpcore.NetworkStream, end: float) -> None:
        self.inner = inner
        self.end = end

    def left(self, timeout: float | None) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, self.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, self.left(timeout))

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        inner = self.inner.start_tls(ssl_context, server_hostname, self.left(timeout))
        return Bounded(inner, self.end)

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class Guarded(httpcore.NetworkBackend):
    """Connects to addresses that `app.addresses` lets pass."""

    def __init__(self, allow: Iterable[str], end: float) -> None:
        self.allow = allow
        self.end = end
        self.inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - ours is shorter
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError()
        for address in resolve(host, port, self.allow):
            left = min(CONNECT, self.end - time.monotonic())
            if left <= 0:
                break
            try:
                inner = self.inner.connect_tcp(
                    address, port, left, local_address, socket_options or ()
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return Bounded(inner, self.end)
        raise failure


@lru_cache
def tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@contextmanager
def stream(
    url: str,
    *,
    limit: int,
    seconds: float = 600.0,
    headers: Mapping[str, str] | None = None,
    offset: int = 0,
    validator: str = "",
    allow: Iterable[str] = (),
) -> Iterator[Answer]:
    """GET `url`; from `offset` on if the server can, and what it has is what `validator` named.

    `limit` is the most bytes that the whole may have, `seconds` the most time for all. `headers`
    go to the first origin only. `allow` adds to `DANLU_FETCH_ALLOW`; never what a user gave.

    Raises Refused, Interrupted or TooLarge.
    """
    end = time.monotonic() + seconds
    asked = {"user-agent": "danlu", "accept": "*/*", "accept-encoding": "identity"}
    if offset:
        asked["range"] = f"bytes={offset}-"
        if validator:
            asked["if-range"] = validator
    with ExitStack() as stack:
        target = first = parse(url)
        for _ in range(REDIRECTS + 1):
            own = dict(headers or {}) if target.origin == first.origin else {}
            response = stack.enter_context(request(target, asked | own, allow, end))
            got = {
                name.decode().lower(): value.decode("latin-1") for name, value in response.headers
            }
            if response.status == 416 and "range" in asked:
                if got.get("content-range", "").endswith(f"/{offset}"):  # it was all there
                    yield Answer(target.url, got, offset, offset, iter(()))
                    return
                del asked["range"]
                asked.pop("if-range", None)
            elif response.status in MOVED and "location" in got:
                target = parse(urljoin(target.url, got["location"]))
            else:
                yield answer(target, response, got, offset, limit)
                return
            stack.close()
        raise Refused(
            N_("The address leads from one place to another, too often."), code="address.loop"
        )


def post(
    url: str,
    content: bytes,
    *,
    seconds: float = 15.0,
    headers: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
) -> int:
    """POST `content` to `url`; the status of the answer, whose body nobody reads. As `asked`."""
    return asked(url, content, seconds=seconds, headers=headers, allow=allow, limit=0)[0]


def asked(
    url: str,
    content: bytes,
    *,
    seconds: float = 15.0,
    headers: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
    limit: int,
) -> tuple[int, bytes]:
    """POST `content` to `url`; the status of the answer, and its first `limit` bytes. A redirect is
    an answer like any other: it is not followed. Raises Refused or Interrupted.
    """
    own = {"user-agent": "danlu", "accept": "*/*", "content-length": str(len(content))}
    head = own | dict(headers or {})
    end = time.monotonic() + seconds
    target = parse(url)
    with request(target, head, allow, end, method="POST", content=content) as response:
        said = b""
        with speaking(target):
            for chunk in response.iter_stream() if limit else ():
                said += chunk
                if len(said) >= limit:
                    break
        return response.status, said[:limit]


def ask(
    url: str,
    method: str,
    content: bytes | None,
    *,
    limit: int,
    seconds: float,
    headers: Mapping[str, str],
    allow: Iterable[str] = (),
) -> bytes:
    """The body of an answer of a service's API; redirects are not followed. Raises Refused (also for
    any status but 2xx), Interrupted or TooLarge.
    """
    head = {"user-agent": "danlu", "accept": "application/json", "accept-encoding": "identity"}
    target, end = parse(url), time.monotonic() + seconds
    with request(
        target, head | dict(headers), allow, end, method=method, content=content
    ) as response:
        got = {name.decode().lower(): value.decode("latin-1") for name, value in response.headers}
        if 201 <= response.status < 300:
            response.status = 200
        return b"".join(answer(target, response, got, 0, limit).chunks)


def exchange(
    url: str,
    content: bytes,
    *,
    limit: int,
    seconds: float = 15.0,
    silence: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """POST `content` to `url`: the status and the body of the answer, at most `limit` bytes. No
    redirect is followed. `silence`: seconds without a byte, at most (SILENCE). Raises Refused, Interrupted or TooLarge.
    """
    own = {"user-agent": "danlu", "accept": "*/*", "content-length": str(len(content))}
    head = own | {"accept-encoding": "identity"} | dict(headers or {})
    end = time.monotonic() + seconds
    target = parse(url)
    with request(target, head, (), end, method="POST", content=content, silence=silence) as got:
        return got.status, b"".join(pieces(target, got, 0, limit))


@contextmanager
def request(
    target: Target,
    headers: Mapping[str, str],
    allow: Iterable[str],
    end: float,
    *,
    method: str = "GET",
    content: bytes | None = None,
    silence: float | None = None,
) -> Iterator[httpcore.Response]:
    """One request on a connection of its own. Raises Interrupted."""
    where = httpcore.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=target.path
    )
    times = {
        "timeout": {
            "connect": CONNECT,
            "read": silence or SILENCE,
            "write": SILENCE,
            "pool": CONNECT,
        }
    }
    head = [("host", target.authority), ("connection", "close"), *headers.items()]
    pool = httpcore.ConnectionPool(ssl_context=tls(), network_backend=Guarded(allow, end))
    with pool, ExitStack() as stack:
        with speaking(target):  # not the caller's own errors
            got = stack.enter_context(
                pool.stream(method, where, headers=head, content=content, extensions=times)
            )
        yield got


@contextmanager
def speaking(target: Target) -> Iterator[None]:
    """What goes wrong on the wire, as Interrupted."""
    try:
        yield
    except httpcore.TimeoutException:
        raise Interrupted(
            N_("%(host)s did not answer in time."), code="address.timeout", host=target.host
        ) from None
    except httpcore.ConnectError as error:
        raise Interrupted(
            N_("%(host)s cannot be reached: %(why)s."),
            code="address.unreachable",
            host=target.host,
            why=str(error)[:200] or "-",
        ) from None
    except (httpcore.NetworkError, httpcore.ProtocolError):
        raise Interrupted(
            N_("The connection to %(host)s broke off."), code="address.cut", host=target.host
        ) from None


def answer(
    target: Target, response: httpcore.Response, got: dict[str, str], offset: int, limit: int
) -> Answer:
    """Raises Refused or Interrupted if it is no answer, TooLarge if it says so."""
    status, host = response.status, target.host
    if status in (401, 403):
        raise Refused(
            N_("%(host)s wants a sign-in for this (status %(status)s), or does not give it away."),
            code="address.login",
            host=host,
            status=status,
        )
    if status in (404, 410):
        raise Refused(
            N_("There is nothing at this address: %(host)s answers %(status)s."),
            code="address.missing",
            host=host,
            status=status,
        )
    if status not in (200, 206):
        kind = Interrupted if status in BUSY or status >= 500 else Refused
        raise kind(
            N_("%(host)s answers with status %(status)s."),
            code="address.status",
            host=host,
            status=status,
        )
    length = got.get("content-length", "")
    size = int(length) if length.isdecimal() else None
    begin = 0
    if status == 206:
        span, _, whole = got.get("content-range", "").partition("/")
        if span.partition("-")[0] != f"bytes {offset}":
            raise Refused(
                N_("%(host)s answers with another part of the file."),
                code="address.range",
                host=host,
            )
        begin, size = offset, int(whole) if whole.isdecimal() else None
    if size is not None and size > limit:
        raise too_large(limit)
    return Answer(target.url, got, begin, size, pieces(target, response, begin, limit))


def pieces(target: Target, response: httpcore.Response, begin: int, limit: int) -> Iterator[bytes]:
    with speaking(target):
        for chunk in response.iter_stream():
            begin += len(chunk)
            if begin > limit:
                raise too_large(limit)
            yield chunk


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        N_("What is at this address is larger than %(most)s MiB."),
        code="address.too_large",
        most=limit // 2**20,
    )


def read(url: str, *, limit: int, **how: Any) -> tuple[Answer, bytes]:
    """All of it at once, for what is small. As `stream`."""
    with stream(url, limit=limit, **how) as found:
        return found, b"".join(found.chunks)
