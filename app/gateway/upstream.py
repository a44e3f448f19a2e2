"""Talking to engines: what is asked of them, and their streams as whole events."""

import asyncio
import contextlib
import ctypes
import gc
from collections.abc import AsyncIterator
from typing import Any

import orjson

from app.config import settings
from app.deployments.service import RouteReplica
from app.gateway import ledger, limits, loads, wire
from app.gateway.wire import Lost

BROKEN = {500, 502, 503, 504}  # it is the engine: another one may well answer
UNLOADED = 404  # an adapter was unloaded just now: who asks again waits until it is loaded
M_ARENA_MAX = -8  # malloc.h
COLLECT = 10_000, 20, 20  # objects, and then times that they were looked at (gc.set_threshold)


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """What runs beside the requests, as long as the web process lives."""
    settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    share_memory()
    leave_alone()
    beside = [
        asyncio.create_task(ledger.flush_forever()),
        asyncio.create_task(loads.exchange_forever()),
        asyncio.create_task(loads.note_use_forever()),
    ]
    try:
        async with limits.connected():
            yield
    finally:
        for task in beside:
            task.cancel()
        wire.close_all()
        with contextlib.suppress(Exception):  # the spool stays; the next start flushes it
            await asyncio.to_thread(ledger.flush)


def share_memory() -> None:
    """Threads take memory from one place: glibc gives each its own, whose free parts no other uses,
    and a gateway, whose usage is flushed by threads, grows by them (mallopt(3)).
    """
    with contextlib.suppress(AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def leave_alone() -> None:
    """What is there by now stays, so that the collector need not go through all of it each time that
    some thousand requests have left objects behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


class Failed(Exception):
    """This engine gives no answer to this request; another may.

    `status` and `answer` are what it said instead, if anything. `given`: it had the request, so
    that this may be what broke it.
    """

    def __init__(self, *, given: bool, status: int = 0, answer: bytes = b"") -> None:
        super().__init__(status)
        self.given = given
        self.status = status
        self.answer = answer


async def post(
    replica: RouteReplica, path: str, body: dict[str, Any], request_id: str
) -> wire.Connection:
    """The engine's answer, its head read; the caller closes it. Raises Failed."""
    try:
        response = await wire.post(
            replica.address,
            f"/v1/{path}",
            {
                "authorization": f"Bearer {replica.secret}",
                "content-type": "application/json",
                "x-request-id": request_id,
            },
            orjson.dumps(spoken_for(replica, body) | {"model": replica.served_name}),
        )
        if response.status not in {*BROKEN, UNLOADED}:
            return response
        try:
            answer = await response.read()
        finally:
            response.close()
    except Lost as lost:
        raise Failed(given=lost.given) from None
    # 503 is an engine that starts, or has too much to do: it has not begun with the request
    given = response.status not in (503, UNLOADED)
    raise Failed(given=given, status=response.status, answer=answer)


async def whole(response: wire.Connection) -> bytes:
    """The rest of the answer. Raises Failed if the engine ends before it."""
    try:
        return await response.read()
    except Lost:
        raise Failed(given=True) from None


class Events:
    """A stream of server-sent events, taken as it comes."""

    def __init__(self, response: wire.Connection) -> None:
        self.response = response
        self.pending = b""  # the beginning of an event

    async def next(self) -> bytes:
        """One event or several that came together, each whole with its blank line; empty at the end.

        Raises Lost if the engine ends before it.
        """
        while piece := await self.response.piece():
            if events := self.whole(piece):
                return events
        return self.rest()

    def whole(self, piece: bytes) -> bytes:
        """The events that end in this piece; what is left over waits for the next."""
        if self.pending:
            piece = self.pending + piece
            self.pending = b""
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n")
        if piece.endswith(b"\n\n"):
            return piece
        end = piece.rfind(b"\n\n") + 2
        if end == 1:
            end = 0
        self.pending = piece[end:]
        return piece[:end]

    def rest(self) -> bytes:
        """What came last, without a blank line behind it."""
        rest, self.pending = self.pending.strip(), b""
        return rest + b"\n\n" if rest else b""


async def first(events: Events) -> bytes:
    """How a stream begins. Raises Failed if the engine ends before it, or says that it broke."""
    try:
        piece = await events.next()
    except Lost:
        raise Failed(given=True) from None
    if not piece:
        raise Failed(given=True)
    if piece.startswith(b'data: {"error"') and (status := status_of(piece)) in BROKEN:
        answer = piece.removeprefix(b"data: ").partition(b"\n\n")[0]
        raise Failed(given=status != 503, status=status, answer=answer)
    return piece


def status_of(event: bytes) -> int:
    """The status that an engine names in an error that it sends as an event; 0 without one."""
    try:
        code = orjson.loads(event.removeprefix(b"data: ").partition(b"\n\n")[0])["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 0
    return code if isinstance(code, int) else 0


def spoken_for(replica: RouteReplica, body: dict[str, Any]) -> dict[str, Any]:
    """The body as the engine must see it so that it does what the model learned: an adapter that
    another's engine carries stops and draws as its own files say, unless the caller says more.
    """
    if replica.engine == "vllm" and "stream_options" in body and body.get("n") in (None, 1):
        # what is used by then comes with each chunk: it is known of a client that leaves, too
        told = body["stream_options"] | {"continuous_usage_stats": True}
        body = body | {"stream_options": told}
    if not replica.sends:
        return body
    said = {name: value for name, value in body.items() if value is not None}
    sent = replica.sends | said
    own, asked = replica.sends.get("stop_token_ids", []), said.get("stop_token_ids", [])
    if own and body.get("ignore_eos"):
        sent = sent | {"stop_token_ids": asked}
    elif own and isinstance(asked, list):
        sent = sent | {"stop_token_ids": [*own, *asked]}
    return sent
