"""An answer on its way: to the page as events, and into the database however it ends.

Events: `answer` {id}, then `waiting` {seconds, state} each second until the engine speaks, its
OpenAI chunks, and `done` {usage} or `failed` {error}.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.chat import tree
from app.deployments import service as deployments
from app.errors import N_, Conflict, DomainError
from app.gateway import service as gateway
from app.gateway import streams
from app.queue import transaction

BEAT = 1.0  # seconds between two signs of life while nothing comes
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
Asking = asyncio.Task[tuple[AsyncIterator[bytes] | None, gateway.Exchange]]
# How models without a parser in front of them mark what they think; some leave out the beginning.
THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>\s*|\Z)|(?P<bare>.*?)</think>\s*\n", re.DOTALL)


@dataclass
class Answer:
    """What is said so far, and how it ended."""

    caller: gateway.Caller
    turn: tree.Turn
    say: Callable[[DomainError], str]
    started: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    chunks: int = 0
    state: str = "stopped"  # until it is known to be done, or failed
    error: dict[str, Any] | None = None
    asking: Asking | None = None
    exchange: gateway.Exchange | None = None
    stored: bool = False

    async def events(self) -> AsyncIterator[bytes]:
        yield named("answer", {"id": self.turn.message_id, "model": self.turn.body["model"]})
        self.asking = asyncio.create_task(
            streams.stream(self.caller, "chat/completions", self.turn.body, never)
        )
        try:
            while not (await asyncio.wait({self.asking}, timeout=BEAT))[0]:
                yield named("waiting", await self.waiting())
            events, self.exchange = self.asking.result()
            if events is None:
                raise Conflict(
                    N_("The engine refused: %(said)s"),
                    code="engine_refused",
                    said=engine_message(self.exchange.answer),
                )
            async for event in events:
                self.hear(event)
                if self.state == "failed":
                    await self.keep()
                    yield named("failed", {"error": str(self.error and self.error["message"])})
                    return
                yield event
            self.state = "done"
            await self.keep()  # whoever reads that it is done may look it up
            yield named("done", self.usage())
        except DomainError as error:
            self.fail(error.code, error.message, error.params)
            await self.keep()
            yield named("failed", {"error": self.say(error), "code": error.code})

    async def waiting(self) -> dict[str, Any]:
        """For how long, and what the deployment is doing meanwhile."""

        def look() -> str:
            with transaction() as db:
                name = self.turn.body["model"]
                route = deployments.route(db, self.caller.workspace_id, name)
                return route.state if route else ""

        state = await run_in_threadpool(look)
        return {"seconds": round(time.perf_counter() - self.started), "state": state}

    def hear(self, event: bytes) -> None:
        """Take in one of the engine's events."""
        if not event.startswith(b"data: {"):
            return
        chunk = orjson.loads(event.removeprefix(b"data: ").strip())
        if chunk.get("error"):
            self.fail("engine_lost", str(chunk["error"].get("message", ""))[:500], {})
            return
        delta = (chunk.get("choices") or [{}])[0].get("delta") or {}
        content = delta.get("content") or ""
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if content or reasoning:
            self.first_at = self.first_at or time.perf_counter()
            self.chunks += 1
            self.content.append(content)
            self.reasoning.append(reasoning)

    def fail(self, code: str, message: str, params: dict[str, Any]) -> None:
        self.state = "failed"
        self.error = {"code": code, "message": message, "params": params}

    def usage(self) -> dict[str, Any]:
        """Tokens and speed, as the page shows them under an answer. Speed is that of writing:
        from the first token to the last.
        """
        if self.first_at is None:
            return {}
        counted = self.exchange.completion_tokens if self.exchange else 0
        tokens = counted or self.chunks
        writing = time.perf_counter() - self.first_at
        return {
            "prompt_tokens": self.exchange.prompt_tokens if self.exchange else 0,
            "completion_tokens": tokens,
            "first_token_ms": round((self.first_at - self.started) * 1000),
            "tokens_per_second": round((tokens - 1) / writing, 1) if tokens > 1 else None,
            "seconds": round(time.perf_counter() - self.started, 1),
        }

    async def close(self) -> None:
        """Let go of the engine and store what was said. The reader may be gone already."""
        if self.asking is not None and not self.asking.done():
            self.asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, DomainError):
                await self.asking
        if self.asking is not None and not self.asking.cancelled() and not self.asking.exception():
            self.asking.result()[1].close()
        await self.keep()

    async def keep(self) -> None:
        """Store it, once; whoever waits for that may leave."""
        if not self.stored:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.store))
            self.stored = True

    def store(self) -> None:
        reasoning, content = split("".join(self.content))
        with transaction() as db:
            tree.finish(
                db,
                self.turn.message_id,
                content=content,
                reasoning=("".join(self.reasoning) + reasoning).strip(),
                state=self.state,
                usage=self.usage(),
                error=self.error,
            )


async def never() -> None:
    """A reader who leaves ends the response, and that cancels what is asked."""
    await asyncio.Event().wait()


def split(text: str) -> tuple[str, str]:
    """What was thought, and what was said."""
    found = THOUGHT.match(text)
    if found is None:
        return "", text
    return (found[1] or found["bare"] or "").strip(), text[found.end() :]


def engine_message(body: bytes) -> str:
    """An engine's own sentence."""
    try:
        error = orjson.loads(body).get("error") or {}
        return str(error.get("message", ""))[:500]
    except (orjson.JSONDecodeError, AttributeError):
        return body[:500].decode(errors="replace")


def named(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))


class Streamed(StreamingResponse):
    """The answer's events; stored at the end, also when the reader stops it or never began."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.events(), headers=HEADERS, media_type="text/event-stream")
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.answer.close()
