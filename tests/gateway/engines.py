"""Engines for the gateway to route to: real HTTP servers, paced, that break when they are told."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web
from sqlalchemy.orm import Session

from app.accounts.limits import NO_LIMITS, Limits
from app.accounts.tables import Workspace
from app.deployments.tables import Deployment, Replica
from app.gateway import service, streams, upstream
from tests.factories import make_deployment, make_replica, make_user

HELLO = [{"role": "user", "content": "hello"}]
WORDS = ["one ", "two ", "three "]
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


class Engine:
    """`how` says what becomes of the next requests: fine, a status, or where it breaks off."""

    def __init__(self, how: str | int = "fine") -> None:
        self.how = how
        self.asked: list[dict[str, Any]] = []
        self.open = 0
        self.go_on = asyncio.Event()
        self.go_on.set()  # cleared, it keeps who asks waiting

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_post("/v1/completions", self.answer)
        app.router.add_post("/v1/embeddings", self.answer)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go_on.set()
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.open += 1
        try:
            await self.go_on.wait()
            if isinstance(self.how, int):
                said = {"error": {"message": "broken", "code": self.how}}
                return web.json_response(said, status=self.how)
            if self.how == "drop":
                return self.cut(request)
            return await (self.stream if body.get("stream") else self.whole)(request)
        finally:
            self.open -= 1

    async def whole(self, request: web.Request) -> web.StreamResponse:
        content = {"role": "assistant", "content": "".join(WORDS)}
        said = json.dumps({"choices": [{"index": 0, "message": content}], "usage": USAGE}).encode()
        response = web.StreamResponse(headers={"content-length": str(len(said))})
        await response.prepare(request)
        if self.how == "drop-body":
            await response.write(said[:10])
            return self.cut(request)
        await response.write(said)
        return response

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if self.how == "drop-first":
            return self.cut(request)
        if self.how == "error-first":
            return await self.event(response, {"error": {"message": "dead", "code": 500}})
        for number, word in enumerate(WORDS):
            await self.event(response, {"choices": [{"index": 0, "delta": {"content": word}}]})
            await asyncio.sleep(0.01)
            if self.how == "drop-middle" and number == 1:
                return self.cut(request)
            if self.how == "hang-middle" and number == 1:
                await asyncio.Event().wait()
        await self.event(response, {"choices": [], "usage": USAGE})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def event(self, response: web.StreamResponse, data: Any) -> web.StreamResponse:
        await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        return response

    def cut(self, request: web.Request) -> web.Response:
        """As a kill -9 looks from the other end."""
        assert request.transport
        request.transport.abort()
        return web.Response()


# -- rows that lead to them --------------------------------------------------------------


def deploy(db: Session, workspace: Workspace, *engines: Engine, **values: Any) -> Deployment:
    """A deployment that is ready, with a replica for each engine. Committed."""
    made = make_deployment(
        db, workspace, make_user(db), **{"name": "mood", "replicas": len(engines)} | values
    )
    for index, engine in enumerate(engines):
        replica(db, made, engine, index=index)
    made.state = "ready"
    db.commit()
    return made


def replica(db: Session, deployment: Deployment, engine: Engine, **values: Any) -> Replica:
    at = {"state": "ready", "address": engine.address, "secret": "s", "engine": "vllm", "fence": 1}
    return make_replica(db, deployment, **at | values)


# -- asking the gateway ------------------------------------------------------------------


async def never() -> None:
    """A client that stays."""
    await asyncio.Event().wait()


def caller(
    workspace: Workspace,
    key_id: str | None = None,
    limits: Limits = NO_LIMITS,
    user: str = "usr_x",
) -> service.Caller:
    return service.Caller(workspace.id, user, key_id, limits)


async def whole(
    workspace: Workspace,
    name: str = "mood",
    sticky: str = "",
    gone: service.Gone = never,
    user: str = "usr_x",
) -> service.Exchange:
    body = {"model": name, "messages": HELLO}
    return await service.whole(caller(workspace, user=user), "chat/completions", body, gone, sticky)


async def streamed(
    workspace: Workspace, name: str = "mood", gone: service.Gone = never
) -> tuple[list[bytes], service.Exchange]:
    """All events of a stream."""
    body = {"model": name, "messages": HELLO, "stream": True}
    events, exchange = await streams.stream(caller(workspace), "chat/completions", body, gone)
    assert events is not None, exchange.answer
    return [event async for event in events], exchange


def words(events: list[bytes]) -> str:
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events if b"DONE" not in event]
    return "".join(one["choices"][0]["delta"]["content"] for one in chunks if one.get("choices"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it may be a row
            await asyncio.sleep(0.02)


def running(test: Callable[[], Awaitable[None]]) -> None:
    """Run `test` beside the gateway's own tasks."""

    async def main() -> None:
        async with upstream.lifespan():
            await test()

    asyncio.run(main())
