"""HTTP/1.1 to engines, as much of it as a gateway needs: a request out, the answer's bytes in.

What comes of an answer is one call from the socket to whoever takes it; with a client library it is a
parser, a buffer, a future and a task's step, and a stream has hundreds of chunks. An engine's address is
a plain `http://host:port`, its answers are whole or chunked, and nothing is redirected, compressed or
retried here.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 5.0
KEPT_ALIVE = 3.0  # seconds: less than the 5 after which engines close what nobody uses
MOST_HELD = 256 * 2**10  # bytes that nobody has taken, after which nothing more is read
Taker = Callable[[list[bytes]], None]  # the chunks that came together


class Lost(Exception):
    """The engine ended before its answer did. `given`: it had the request."""

    def __init__(self, *, given: bool = True) -> None:
        super().__init__()
        self.given = given


class Connection(asyncio.Protocol):
    """A connection to an engine, and the answer that comes over it just now."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.begin()

    def begin(self) -> None:
        """Nothing of an answer is there yet."""
        self.status = 0
        self.framed = False  # the answer says where it ends; else it ends with the connection
        self.stays = False  # the connection is good for another
        self.ended = False
        self.error: Exception | None = None
        self.pieces: list[bytes] = []  # that nobody has taken
        self.held = 0  # bytes of them
        self.taker: Taker | None = None
        self.changed = asyncio.Event()

    # -- from the socket -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        is_sound = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            is_sound = False
        self.hand_over()  # what came before nonsense, too
        if not is_sound:
            self.fail(Lost())
            self.close()
        elif self.pieces:
            self.changed.set()
            if self.held > MOST_HELD:
                self.pause()

    def hand_over(self) -> None:
        """What is there, to whoever takes it."""
        if self.taker is None or not self.pieces:
            return
        pieces, self.pieces, self.held = self.pieces, [], 0
        try:
            self.taker(pieces)
        except Exception as error:  # noqa: BLE001 - it is for who has given the taker
            self.ended = False
            self.fail(error)
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        forget(self)
        if self.status and not self.framed:
            self.on_message_complete()
        self.fail(Lost())

    def fail(self, error: Exception) -> None:
        if not self.ended and self.error is None:
            self.error = error
            self.changed.set()

    # -- from the parser -----------------------------------------------------------------

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self.framed = True

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.stays = self.framed and self.parser.should_keep_alive()
        self.changed.set()

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)
        self.held += len(body)

    def on_message_complete(self) -> None:
        self.ended = True
        self.changed.set()

    # -- for who asks --------------------------------------------------------------------

    async def head(self) -> int:
        """The status, once it is there. Raises Lost."""
        while not self.status:
            await self.more()
        return self.status

    async def more(self) -> None:
        """Until something has come. Raises Lost."""
        if self.error is None:
            self.changed.clear()
            await self.changed.wait()
        if self.error is not None and not self.pieces:
            raise self.error

    async def piece(self) -> bytes:
        """What came next; empty at the end. Raises Lost."""
        while not self.pieces:
            if self.ended:
                return b""
            await self.more()
        piece = self.pieces.pop(0)
        self.held -= len(piece)
        if self.held <= MOST_HELD // 2:
            self.resume()
        return piece

    async def read(self) -> bytes:
        """All of it. Raises Lost."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def give(self, taker: Taker) -> None:
        """`taker` is called with the chunks as they come, until the end. Raises Lost, and what the
        taker raises.
        """
        self.taker = taker
        self.hand_over()
        self.resume()
        try:
            while not self.ended:
                await self.more()
        finally:
            self.taker = None

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """Let go: what is not at its end is broken off, by which the engine hears of it."""
        if self.transport is None:
            return
        if self.ended and self.stays and not self.pieces:
            self.idle_since = time.monotonic()
            self.resume()  # or nobody would see that the engine closes it
            idle.setdefault(self.address, []).append(self)
        else:
            self.transport.abort()


# -- connections that nobody uses --------------------------------------------------------

idle: dict[str, list[Connection]] = {}  # by address, the last used last


def forget(connection: Connection) -> None:
    with contextlib.suppress(KeyError, ValueError):
        idle[connection.address].remove(connection)


def tidy() -> None:
    """Close what has been idle for too long."""
    end = time.monotonic() - KEPT_ALIVE
    for address, kept in list(idle.items()):
        while kept and kept[0].idle_since < end:
            old = kept.pop(0)
            if old.transport is not None:
                old.transport.abort()
        if not kept:
            del idle[address]


def close_all() -> None:
    for kept in list(idle.values()):
        for one in list(kept):
            if one.transport is not None:
                one.transport.abort()
    idle.clear()


async def connect(address: str) -> Connection:
    """One that is open, or a new one. Raises Lost."""
    tidy()
    if kept := idle.get(address):
        found = kept.pop()
        found.begin()
        return found
    parts = urlsplit(address)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, made = await loop.create_connection(
                lambda: Connection(address), parts.hostname or "", parts.port or 80
            )
    except (OSError, TimeoutError):
        raise Lost(given=False) from None
    return made


async def post(address: str, path: str, headers: dict[str, str], body: bytes) -> Connection:
    """Ask, and wait for the head of the answer; the caller closes it. Raises Lost."""
    connection = await connect(address)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    host = urlsplit(address).netloc
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: {len(body)}\r\n\r\n"
    if connection.transport is None:
        raise Lost(given=False)
    try:
        connection.transport.write(head.encode("latin-1") + body)
        await connection.head()
    except BaseException:
        connection.close()
        raise
    return connection
