"""Answers that come in pieces: server-sent events, on their way from the engine to the client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson

from app.gateway import metering
from app.gateway.metering import CHOICES, CHUNK_USAGE, END, FLAT
from app.gateway.service import (
    Caller,
    Exchange,
    Gone,
    answered,
    engine_lost,
    raise_if_too_long,
    unless_gone,
)
from app.gateway.wire import Lost

# whose streams tell their usage if they are told to; that of Responses always does
COUNTED_WHEN_ASKED = ("chat/completions", "completions")


class Body(Protocol):
    """Where the bytes of an answer can be written without waiting: `app.protocol.Body`."""

    def write(self, pieces: list[bytes]) -> bool: ...  # True: full
    async def drain(self) -> None: ...


class Stream:
    """A streamed answer that has begun. Either it is iterated, or `begin` is sent and the rest written
    `into` a body.
    """

    def __init__(self, exchange: Exchange, options: dict[str, Any]) -> None:
        assert exchange.events is not None
        self.exchange = exchange
        self.events = exchange.events
        self.last_wanted = bool(options.get("include_usage"))
        self.each_wanted = self.last_wanted and bool(options.get("continuous_usage_stats"))
        exchange.first_token()

    def passed_on(self, piece: bytes) -> bytes:
        """Of whole events what the client gets: not the usage that its `stream_options` left out."""
        exchange = self.exchange
        if exchange.record is not None:
            exchange.record.hear(piece)
        if b'"usage":{' in piece or b'"usage": {' in piece:
            left, exchange.usage = metering.without_usage(piece, exchange.usage, self.last_wanted)
            return piece if self.each_wanted else left
        exchange.chunks += piece.count(b"data: {")
        return piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The events as they come, as many together as came together. Closes the exchange."""
        piece = self.exchange.first
        try:
            while piece:
                if passed := self.passed_on(piece):
                    yield passed
                piece = await self.events.next()
            self.end()
        except Lost:
            yield self.lost()
        finally:
            self.exchange.close()

    def begin(self) -> bytes:
        """How it begins. Before `into`."""
        return self.passed_on(self.exchange.first)

    async def into(self, body: Body) -> bytes:
        """What follows, written as it comes, but for what comes last, with which the caller ends the
        answer. While the body is full nothing more is read. Closes the exchange.
        """
        waiting: asyncio.Task[None] | None = None
        exchange, events, response = self.exchange, self.events, self.events.response
        is_plain = exchange.record is None and not self.each_wanted
        last = b""

        async def go_on() -> None:
            await body.drain()
            response.resume()

        def take(pieces: list[bytes]) -> None:
            nonlocal waiting, last
            passed = []
            for piece in pieces:
                at = piece.find(CHUNK_USAGE) if is_plain and not events.pending else -1
                # nearly always: one event of which the usage is the end, and has no objects in it
                if (
                    at > 0
                    and piece.endswith(FLAT)
                    and piece.count(b"}", at) == 2
                    and CHOICES in piece
                ):
                    exchange.usage = piece[at + len(CHUNK_USAGE) - 1 : -3]
                    passed.append(piece[:at] + END)
                else:
                    passed.append(self.passed_on(events.whole(piece)))
            if response.ended:
                last = passed.pop()
            full = body.write(passed)
            if full and (waiting is None or waiting.done()):
                response.pause()
                waiting = asyncio.create_task(go_on())

        try:
            await response.give(take)
            if rest := events.rest():
                last += self.passed_on(rest)
            self.end()
        except Lost:
            last = self.lost()
        finally:
            if waiting is not None:
                waiting.cancel()
            exchange.close()
        return last

    def end(self) -> None:
        self.exchange.status, self.exchange.completed = 200, True

    def lost(self) -> bytes:
        """The event that says so."""
        self.exchange.status = 502
        error = engine_lost(self.exchange)
        said = {"message": str(error), "type": "server_error", "param": None, "code": error.code}
        return b"data: %s\n\n" % orjson.dumps({"error": said})


async def relay(
    caller: Caller, path: str, body: dict[str, Any], gone: Gone | None = None, sticky: str = ""
) -> tuple[Stream | None, Exchange]:
    """A streamed answer; or None, and the exchange has an error's `status` and `answer`, JSON bytes.

    Usage is always asked of the engine, and passed on only as it was asked for. Whoever sends the
    events closes the exchange, also when it never began to. `gone`: see `service.whole`.
    """
    exchange = Exchange(caller, body["model"], metering.needs(path, body))
    options = body.get("stream_options") or {}
    asked = body
    if path in COUNTED_WHEN_ASKED:
        asked = body | {"stream_options": options | {"include_usage": True}}
    try:
        await exchange.reserve()
        await unless_gone(gone, answered(exchange, path, asked, sticky))
        if exchange.events is not None:
            return Stream(exchange, options), exchange
        raise_if_too_long(exchange.status, exchange.answer)
    except BaseException as error:
        exchange.status = getattr(error, "status", exchange.status)
        exchange.close()
        raise
    exchange.close()
    return None, exchange


async def stream(
    caller: Caller, path: str, body: dict[str, Any], gone: Gone | None = None, sticky: str = ""
) -> tuple[AsyncIterator[bytes] | None, Exchange]:
    """As `relay`, one event at a time."""
    pieces, exchange = await relay(caller, path, body, gone, sticky)
    return (one_by_one(pieces) if pieces else None), exchange


async def one_by_one(pieces: Stream) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for event in piece.split(b"\n\n"):
            if event.strip():
                yield event + b"\n\n"
