"""From a request at `/v1` to an engine's answer, and the row in the ledger that it leaves."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import orjson
import structlog

from app.db import new_id, now
from app.deployments.service import Route, RouteReplica
from app.errors import N_, Invalid, Unavailable
from app.gateway import ledger, loads, responses, routing, upstream

log = structlog.get_logger()

MOST_GIVEN = 2  # engines that may break on one request
Gone = Callable[[], Awaitable[None]]
T = TypeVar("T")


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
    name: str  # as it was asked for: of a deployment, or an alias
    id: str = field(default_factory=lambda: new_id("rq"))
    started: float = field(default_factory=time.perf_counter)
    first_token_ms: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    chunks: int = 0
    status: int = 499  # the client went away, until something better is known
    completed: bool = False
    route: Route | None = None  # the deployment that was asked last
    answer: bytes = b""  # whole, or an error's
    events: AsyncIterator[bytes] | None = None  # of a stream that has begun
    counted: tuple[str, ...] = ()  # under what `loads` counts it
    response: aiohttp.ClientResponse | None = None
    settled: bool = False

    async def ask(
        self, route: Route, replica: RouteReplica, path: str, body: dict[str, Any]
    ) -> None:
        """Ask one engine; sets `events`, or else `status` and `answer`. Raises `Failed`."""
        self.let_go()
        self.route = route
        self.counted = (route.deployment_id, replica.id)
        loads.begin(*self.counted)
        try:
            self.response = await upstream.post(replica, path, body, self.id)
            if self.response.status == 200 and body.get("stream"):
                events = upstream.events(self.response)
                self.events = led_by(await upstream.first(events), events)
            else:
                self.answer = await upstream.whole(self.response)
                self.status = self.response.status
        except upstream.Failed:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Of the engine, which cancels what it still does."""
        if self.response is not None:
            self.response.close()
        loads.end(*self.counted)
        self.response, self.counted = None, ()

    def close(self) -> None:
        """Let go of the engine and write the row. Once."""
        if self.settled:
            return
        self.settled = True
        self.let_go()
        if self.route is not None:
            self.settle(self.route)

    def read_usage(self, usage: dict[str, Any] | None) -> None:
        if usage:
            usage = responses.usage_of_chat(usage)
            self.prompt_tokens = usage.get("prompt_tokens") or 0
            self.completion_tokens = usage.get("completion_tokens") or 0
            self.completed = True

    def first_token(self) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = round((time.perf_counter() - self.started) * 1000)

    def settle(self, route: Route) -> None:
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
                "owner_id": route.deployment_id,
                "model": self.name,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens or self.chunks,
                "first_token_ms": self.first_token_ms,
                "duration_ms": round((time.perf_counter() - self.started) * 1000),
                "status": self.status,
                "completed": self.completed,
            }
        )


async def led_by(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in rest:
        yield event


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


# -- finding an engine that answers ------------------------------------------------------


async def answered(exchange: Exchange, path: str, body: dict[str, Any], sticky: str) -> None:
    """Ask the engines behind the name, least busy first, until one answers.

    An engine that fails before the client was told anything is made up for by the next. Raises
    Unavailable if none answers. What several engines broke on is given to no more of them.
    """
    tried: set[str] = set()
    failure: upstream.Failed | None = None
    given = 0
    for again in (False, True):  # what is remembered of the name may be a second old
        if given == MOST_GIVEN:
            break
        ways = await routing.routes(
            exchange.caller.workspace_id,
            exchange.name,
            sticky,
            now=again,
            path=path,
            user_id=exchange.caller.user_id,
        )
        for route, replica in ((one, other) for one in ways for other in loads.order(one.replicas)):
            if replica.address in tried or given == MOST_GIVEN:
                continue
            tried.add(replica.address)
            try:
                await exchange.ask(route, replica, path, body)
                return
            except upstream.Failed as failed:
                loads.cool(replica.id)
                failure, given = failed, given + failed.given
                log.info(
                    "engine failed", replica=replica.id, given=failed.given, status=failed.status
                )
    assert failure is not None
    raise_or_pass_on(exchange, failure)


def raise_or_pass_on(exchange: Exchange, failure: upstream.Failed) -> None:
    """What the client hears when no engine answered."""
    if failure.status == 503:
        raise Unavailable(
            N_("%(name)s has too much to do just now. Try again in a few seconds."),
            code="engine_busy",
            name=exchange.name,
        )
    if failure.status:
        exchange.status, exchange.answer = failure.status, failure.answer
    elif failure.given:
        raise engine_lost(exchange)
    else:
        raise Unavailable(
            N_("No engine of %(name)s answers just now. Try again in a few seconds."),
            code="engine_unreachable",
            name=exchange.name,
        )


def engine_lost(exchange: Exchange) -> Unavailable:
    return Unavailable(
        N_("The engine of %(name)s stopped in the middle of the answer. Try again."),
        code="engine_lost",
        name=exchange.name,
    )


async def unless_gone(gone: Gone, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled, and ClientGone raised, when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


# -- the two ways to answer --------------------------------------------------------------


async def whole(
    caller: Caller, path: str, body: dict[str, Any], gone: Gone, sticky: str = ""
) -> Exchange:
    """The whole answer: the exchange's `status` and `answer`, JSON bytes; it is closed.

    `gone` returns when the client has left: the engine's request is then cancelled and
    `ClientGone` raised.
    """
    exchange = Exchange(caller, body["model"])
    try:
        await unless_gone(gone, answered(exchange, path, body, sticky))
        raise_if_too_long(exchange.status, exchange.answer)
        if exchange.status == 200:
            exchange.first_token()
            exchange.read_usage(orjson.loads(exchange.answer).get("usage"))
    except Unavailable as error:
        exchange.status = error.status
        raise
    finally:
        exchange.close()
    return exchange


async def stream(
    caller: Caller, path: str, body: dict[str, Any], gone: Gone, sticky: str = ""
) -> tuple[AsyncIterator[bytes] | None, Exchange]:
    """A streamed answer: server-sent events; or None, and the exchange has an error's `status`
    and `answer`, JSON bytes.

    Usage is always asked of the engine; its chunk is passed on only to who asked for it.
    Whoever sends the events closes the exchange, also when it never began to.
    """
    exchange = Exchange(caller, body["model"])
    options = body.get("stream_options") or {}
    counted = {"stream_options": options | {"include_usage": True}}
    asked = body | ({} if path == responses.PATH else counted)  # which tells it unasked
    try:
        await unless_gone(gone, answered(exchange, path, asked, sticky))
        if exchange.events is not None:
            return passed_through(exchange, bool(options.get("include_usage"))), exchange
        raise_if_too_long(exchange.status, exchange.answer)
    except BaseException as error:
        exchange.status = getattr(error, "status", exchange.status)
        exchange.close()
        raise
    exchange.close()
    return None, exchange


async def passed_through(exchange: Exchange, usage_wanted: bool) -> AsyncIterator[bytes]:
    """The engine's events as they come; closes the exchange at the end."""
    assert exchange.events is not None
    try:
        async for event in exchange.events:
            if event.startswith(b"data: [DONE]"):
                exchange.status = 200
            elif b'"usage":{' in event or b'"usage": {' in event:
                chunk = orjson.loads(event.partition(b"data: ")[2])
                if last := responses.last_of(chunk):
                    exchange.read_usage(last.get("usage"))
                    exchange.status = 200
                else:
                    exchange.read_usage(chunk.get("usage"))
                    if not chunk.get("choices") and not usage_wanted:
                        continue
            elif responses.is_token(event):
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
