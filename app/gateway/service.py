"""From a request at `/v1` to an engine's answer, and the row in the ledger that it leaves."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.db import new_id, now
from app.deployments import service as deployments
from app.deployments.service import Route
from app.errors import N_, Invalid, NotFound, Unavailable
from app.gateway import ledger, upstream
from app.queue import transaction

ROUTE_SECONDS = 1.0  # how long a route may be remembered
routes: dict[tuple[str, str], tuple[float, Route]] = {}


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Caller:
    workspace_id: str
    user_id: str
    api_key_id: str | None


@dataclass
class Exchange:
    """One request: what was sent where, and what came back. Settled exactly once."""

    caller: Caller
    route: Route
    id: str = field(default_factory=lambda: new_id("rq"))
    started: float = field(default_factory=time.perf_counter)
    first_token_ms: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    chunks: int = 0
    status: int = 499  # the client went away, until something better is known
    completed: bool = False
    replica_id: str | None = None
    response: aiohttp.ClientResponse | None = None
    settled: bool = False

    async def send(self, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """Ask an engine; the answer's headers are read."""
        replica, self.response = await upstream.post(self.route, path, body, self.id)
        self.replica_id = replica.id
        return self.response

    def close(self) -> None:
        """Let go of the engine (which cancels what it still does) and write the row. Once."""
        if self.settled:
            return
        self.settled = True
        if self.response is not None:
            self.response.close()
        if self.replica_id is not None:
            upstream.in_flight[self.replica_id] -= 1
        self.settle()

    def read_usage(self, usage: dict[str, Any] | None) -> None:
        if usage:
            self.prompt_tokens = usage.get("prompt_tokens") or 0
            self.completion_tokens = usage.get("completion_tokens") or 0
            self.completed = True

    def first_token(self) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = round((time.perf_counter() - self.started) * 1000)

    def settle(self) -> None:
        """To the spool. Without the engine's own count, a token for each chunk that came."""
        ledger.append(
            {
                "id": self.id,
                "at": now().isoformat(),
                "kind": "tokens",
                "workspace_id": self.caller.workspace_id,
                "user_id": self.caller.user_id,
                "api_key_id": self.caller.api_key_id,
                "owner_kind": "deployment",
                "owner_id": self.route.deployment_id,
                "model": self.route.name,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens or self.chunks,
                "first_token_ms": self.first_token_ms,
                "duration_ms": round((time.perf_counter() - self.started) * 1000),
                "status": self.status,
                "completed": self.completed,
            }
        )


def find_route(db: Session, workspace_id: str, name: str) -> Route:
    """Where `name` is served. Raises `NotFound`, or `Unavailable` while nothing is ready."""
    route = deployments.route(db, workspace_id, name)
    if route is None:
        raise NotFound(
            N_("There is no model called %(name)s here. /v1/models lists those there are."),
            code="model_not_found",
            field="model",
            name=name[:200],
        )
    if not route.replicas:
        if route.state == "stopped":
            raise Unavailable(
                N_("%(name)s is stopped. Start its deployment and try again."),
                code="deployment_stopped",
                retry_after=60,
                name=name,
            )
        raise Unavailable(
            N_("%(name)s is not ready yet (%(state)s). Try again in a few seconds."),
            code="deployment_not_ready",
            name=name,
            state=route.state,
        )
    return route


async def route_to(workspace_id: str, name: str) -> Route:
    """`find_route`, remembered for a second so that a busy key costs no query per request."""
    key = (workspace_id, name)
    known = routes.get(key)
    if known and time.monotonic() - known[0] < ROUTE_SECONDS:
        return known[1]

    def look() -> Route:
        with transaction() as db:
            found = deployments.route(db, workspace_id, name)
            if found and found.state == "idle":
                deployments.ask(db, found.deployment_id)
        with transaction() as db:
            return find_route(db, workspace_id, name)

    route = await run_in_threadpool(look)
    if len(routes) > 10_000:
        routes.clear()
    routes[key] = (time.monotonic(), route)
    return route


CONTEXT = re.compile(rb"maximum (?:context|model) length (?:is|of) (\d+)", re.IGNORECASE)


def raise_if_too_long(status: int, body: bytes) -> None:
    """An engine's word that the prompt does not fit, as our own sentence."""
    if status == 400 and (match := CONTEXT.search(body)):
        error = Invalid(
            N_(
                "The prompt and the answer asked for do not fit into the model's %(limit)s "
                "tokens. Shorten the prompt or lower max_tokens."
            ),
            code="context_length_exceeded",
            field="messages",
            limit=int(match[1]),
        )
        error.status = 400
        raise error


async def whole(
    caller: Caller, path: str, body: dict[str, Any], gone: Callable[[], Awaitable[None]]
) -> tuple[int, bytes, Exchange]:
    """The whole answer: status and JSON bytes.

    `gone` returns when the client has left: the engine's request is then cancelled and
    `ClientGone` raised.
    """
    exchange = Exchange(caller, await route_to(caller.workspace_id, body["model"]))

    async def ask() -> tuple[int, bytes]:
        response = await exchange.send(path, body)
        return response.status, await response.read()

    asking = asyncio.ensure_future(ask())
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise ClientGone
        exchange.status, answer = asking.result()
        raise_if_too_long(exchange.status, answer)
        if exchange.status == 200:
            exchange.first_token()
            exchange.read_usage(orjson.loads(answer).get("usage"))
        return exchange.status, answer, exchange
    except aiohttp.ClientError:
        exchange.status = 502
        raise engine_lost(exchange) from None
    except Unavailable as error:
        exchange.status = error.status
        raise
    finally:
        leaving.cancel()
        asking.cancel()
        exchange.close()


async def stream(
    caller: Caller, path: str, body: dict[str, Any]
) -> tuple[int, bytes | AsyncIterator[bytes], Exchange]:
    """A streamed answer: status and server-sent events, or an error's status and JSON bytes.

    Usage is always asked of the engine; its chunk is passed on only to who asked for it.
    Whoever sends the events closes the exchange, also when it never began to.
    """
    exchange = Exchange(caller, await route_to(caller.workspace_id, body["model"]))
    options = body.get("stream_options") or {}
    try:
        response = await exchange.send(
            path, body | {"stream_options": options | {"include_usage": True}}
        )
        if response.status == 200:
            return 200, passed_through(exchange, bool(options.get("include_usage"))), exchange
        exchange.status = response.status
        answer = await response.read()
        raise_if_too_long(response.status, answer)
    except aiohttp.ClientError:
        exchange.status = 502
        exchange.close()
        raise engine_lost(exchange) from None
    except BaseException as error:
        exchange.status = getattr(error, "status", exchange.status)
        exchange.close()
        raise
    exchange.close()
    return response.status, answer, exchange


def engine_lost(exchange: Exchange) -> Unavailable:
    return Unavailable(
        N_("The engine of %(name)s stopped in the middle of the answer. Try again."),
        code="engine_lost",
        name=exchange.route.name,
    )


async def passed_through(exchange: Exchange, usage_wanted: bool) -> AsyncIterator[bytes]:
    """The engine's events as they come; closes the exchange at the end."""
    assert exchange.response is not None
    try:
        async for event in upstream.events(exchange.response):
            if event.startswith(b"data: [DONE]"):
                exchange.status = 200
            elif b'"usage":{' in event or b'"usage": {' in event:
                chunk = orjson.loads(event.removeprefix(b"data: ").strip())
                exchange.read_usage(chunk.get("usage"))
                if not chunk.get("choices") and not usage_wanted:
                    continue
            else:
                exchange.first_token()
                exchange.chunks += 1
            yield event
    except aiohttp.ClientError:
        exchange.status = 502
        error = engine_lost(exchange)
        yield b"data: %s\n\n" % orjson.dumps(
            {
                "error": {
                    "message": str(error),
                    "type": "server_error",
                    "param": None,
                    "code": error.code,
                }
            }
        )
    finally:
        exchange.close()
