"""Chat and text completions past the framework: what a request costs is mostly what lies around it.

`Direct` stands innermost of what every request passes (`app.guard`), and answers these two addresses
by itself; all others go on. Routes of the same addresses say in OpenAPI, and to whoever reads the
routes, what they are: `gateway.api`.
"""

import asyncio
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app import failures
from app.accounts.auth import Principal
from app.errors import N_, DomainError
from app.gateway import schemas, service, streams
from app.gateway.keys import InferenceKey
from app.protocol import BODY

PATHS = {"/v1/chat/completions": "chat/completions", "/v1/completions": "completions"}
EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies pass on each piece as it comes
)
admit = InferenceKey()


class Direct:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # it knows the request's cycle, which knows the scope: left there, only the collector ends both
        past = scope.get("extensions", {}).pop(BODY, {}).get("body")
        path = scope["type"] == "http" and scope["method"] == "POST" and PATHS.get(scope["path"])
        if not path:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            who = await admit(request)
            answer = Answer(who, path, await read_json(request), past)
            await answer(scope, receive, send)
        except DomainError as error:
            await failures.respond(request, error)(scope, receive, send)
        except ClientDisconnect:  # before it had said what it wants
            return
        except HTTPException as error:
            refused = await failures.on_http_exception(request, error)
            await refused(scope, receive, send)


async def read_json(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise schemas.refuse(
            N_("The body is not valid JSON: line %(line)s, column %(column)s."),
            "",
            line=error.lineno,
            column=error.colno,
        ) from None


def headers(exchange: service.Exchange) -> dict[str, str]:
    """What request this is, which deployment answered it, and what the key has left."""
    route = exchange.route
    found = {"x-request-id": exchange.id} | ({"x-danlu-deployment": route.name} if route else {})
    return found | (exchange.reservation.headers() if exchange.reservation else {})


class Answer(Response):
    """Asks an engine, and sends what it says: whole, or its events as they come.

    A client that leaves cancels it, and with it what the engine does.
    """

    def __init__(
        self, who: Principal, path: str, asked: Any, past: streams.Body | None = None
    ) -> None:
        super().__init__()
        self.path, self.past = path, past
        self.body_asked = schemas.check(path, asked)
        self.caller = service.Caller.of(who)
        user = asked.get("user")
        self.sticky = user if isinstance(user, str) else ""

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        leaving = asyncio.ensure_future(left(receive))
        is_over = False

        def stop(_: object) -> None:
            if not is_over:
                task.cancel()

        leaving.add_done_callback(stop)
        try:
            await self.answer(send)
        except asyncio.CancelledError:
            if not leaving.done():  # somebody else's wish
                raise
            task.uncancel()
        finally:
            is_over = True
            leaving.cancel()

    async def answer(self, send: Send) -> None:
        asked = (self.caller, self.path, self.body_asked)
        if not self.body_asked.get("stream"):
            await self.say(send, await service.whole(*asked, sticky=self.sticky))
            return
        stream, exchange = await streams.relay(*asked, sticky=self.sticky)
        if stream is None:
            await self.say(send, exchange)
            return
        last = b""
        try:
            raw = [*EVENTS, *encoded(headers(exchange))]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            if self.past is not None:
                began = stream.begin()
                await send({"type": "http.response.body", "body": began, "more_body": True})
                last = await stream.into(self.past)
            else:
                async for piece in stream:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": last})
        finally:
            exchange.close()

    async def say(self, send: Send, exchange: service.Exchange) -> None:
        raw = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(exchange.answer)).encode()),
            *encoded(headers(exchange)),
        ]
        await send({"type": "http.response.start", "status": exchange.status, "headers": raw})
        await send({"type": "http.response.body", "body": exchange.answer})


def encoded(found: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in found.items()]


async def left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
