"""From a request at `/v1` to an engine's answer, and the row in the ledger that it leaves."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, TypeVar

import orjson
import structlog

from app.accounts.auth import Principal
from app.accounts.limits import Limits
from app.db import new_id, now
from app.deployments.service import Route, RouteReplica
from app.errors import N_, Forbidden, Invalid, Unavailable
from app.gateway import ledger, loads, metering, routing, scopes, upstream, wire
from app.gateway.limits import Need, Reservation, reserve, settle
from app.gateway.requests import spool as request_log

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
    limits: Limits  # of the API key

    @classmethod
    def of(cls, who: Principal) -> Self:
        return cls(who.workspace_id, who.user_id, who.api_key_id, who.limits)


@dataclass
class Exchange:
    """One request: what was sent where, and what came back. Settled exactly once."""

    caller: Caller
    name: str  # as it was asked for: of a deployment, or an alias
    need: Need
    id: str = field(default_factory=lambda: new_id("rq"))
    at: datetime = field(default_factory=now)
    started: float = field(default_factory=time.perf_counter)
    first_token_ms: int | None = None
    chunks: int = 0
    usage: bytes = b""  # the engine's count, JSON, as far as it has told it
    status: int = 499  # the client went away, until something better is known
    completed: bool = False
    route: Route | None = None  # the deployment that was asked last
    answer: bytes = b""  # whole, or an error's
    first: bytes = b""  # of a stream that has begun
    events: upstream.Events | None = None  # the rest of it
    counted: tuple[str, ...] = ()  # under what `loads` counts it
    response: wire.Connection | None = None
    reservation: Reservation | None = None
    settled: bool = False
    record: request_log.Record | None = None  # of what is logged, if the key wants it

    async def reserve(self) -> None:
        """Raises Forbidden and TooMany: what the caller's key and the quotas do not allow."""
        caller, limits = self.caller, self.caller.limits
        if not limits.permits(self.name):
            raise Forbidden(
                N_("This API key may not call the model %(name)s."),
                code="model_not_allowed",
                field="model",
                name=self.name[:200],
            )
        whose = await scopes.of_quotas(caller.workspace_id, caller.user_id)
        if caller.api_key_id and (key := scopes.of_key(caller.api_key_id, limits)):
            whose = (key, *whose)
        if whose:
            self.reservation = await reserve(whose, self.id, self.need)

    async def ask(
        self, route: Route, replica: RouteReplica, path: str, body: dict[str, Any]
    ) -> None:
        """Ask one engine; sets `events`, or else `status` and `answer`. Raises `Failed`."""
        self.let_go()
        is_first = self.route is None
        self.route = route
        if is_first:
            ledger.begin(self.row)
        self.record = request_log.begin(self.caller.api_key_id, path, body)
        self.counted = (route.deployment_id, replica.id)
        loads.begin(*self.counted)
        try:
            self.response = await upstream.post(replica, path, body, self.id)
            if self.response.status == 200 and body.get("stream"):
                events = upstream.Events(self.response)
                self.first = await upstream.first(events)
                self.events = events
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
        """Let go of the engine, write the row, give back what was reserved. Once."""
        if self.settled:
            return
        self.settled = True
        self.let_go()
        used = 0
        if self.route is not None:
            row = self.row()
            used = row["prompt_tokens"] + row["completion_tokens"]
            ledger.append(row)
            if self.completed:
                metering.learn(row)
        if self.reservation is not None:
            settle(self.reservation, used)
        if self.record is not None:
            request_log.append(self.record, self)

    def first_token(self) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = round(self.elapsed() * 1000)

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def tokens(self) -> metering.Tokens:
        """As the engine counted them, else as good as is known.

        An engine that refused, or broke before it said anything, costs nothing.
        """
        if self.usage and (usage := orjson.loads(self.usage)):
            return metering.read(usage)
        if self.events is not None:
            return metering.Tokens(self.need.prompt, self.chunks)
        if self.route is not None and (self.completed or self.status == 499):
            guess = metering.guess(self.route.deployment_id, self.elapsed(), self.need.most)
            return metering.Tokens(self.need.prompt, guess)
        return metering.Tokens()

    @property
    def prompt_tokens(self) -> int:
        return self.tokens().prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return self.tokens().completion_tokens

    def row(self) -> dict[str, Any]:
        """Of the ledger, as things stand."""
        assert self.route is not None
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "kind": "tokens",
            "workspace_id": self.caller.workspace_id,
            "user_id": self.caller.user_id,
            "api_key_id": self.caller.api_key_id,
            "owner_kind": "deployment",
            "owner_id": self.route.deployment_id,
            "model": self.name,
            "model_id": self.route.model_id,
            "base_id": self.route.base_id,
            **vars(self.tokens()),
            "first_token_ms": self.first_token_ms,
            "duration_ms": round(self.elapsed() * 1000),
            "status": self.status,
            "completed": self.completed,
        }


CONTEXT = re.compile(
    rb"(?:maximum (?:context|model) length (?:is|of) |cannot be greater than max_model_len=)(\d+)",
    re.IGNORECASE,
)


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
            scores_prompt=bool(body.get("echo")) and body.get("logprobs") is not None,
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


async def unless_gone(gone: Gone | None, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled, and ClientGone raised, when the client leaves."""
    if gone is None:
        return await work
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


# -- answers that come whole -------------------------------------------------------------


async def whole(
    caller: Caller, path: str, body: dict[str, Any], gone: Gone | None = None, sticky: str = ""
) -> Exchange:
    """The whole answer: the exchange's `status` and `answer`, JSON bytes; it is closed.

    `gone` returns when the client has left: the engine's request is then cancelled and
    `ClientGone` raised. Without it, whoever calls cancels.
    """
    exchange = Exchange(caller, body["model"], metering.needs(path, body))
    try:
        await exchange.reserve()
        await unless_gone(gone, answered(exchange, path, body, sticky))
        raise_if_too_long(exchange.status, exchange.answer)
        if exchange.status == 200:
            exchange.first_token()
            exchange.usage = orjson.dumps(orjson.loads(exchange.answer).get("usage"))
            exchange.completed = True
    except Unavailable as error:
        exchange.status = error.status
        raise
    finally:
        exchange.close()
    return exchange
