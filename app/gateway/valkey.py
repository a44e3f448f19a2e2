"""Commands to Valkey over one connection: they go out as they come, replies come back in that order.

A client library takes a connection for each command, packs it in Python, makes a task of each write and
tries again by itself, which costs several times what the command does. Its connections are as they are:
they know addresses, TLS, passwords and replies.
"""

import asyncio
import math
from collections import deque
from typing import Any

import hiredis
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

CONNECT_SECONDS = 1
REPLY_SECONDS = 2.0
WATCH_SECONDS = 0.5


class Valkey:
    """Its commands raise RedisError and OSError; one that fails may have been carried out."""

    def __init__(self, url: str) -> None:
        self.pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
        )
        self.connection: Connection | None = None
        self.opening: asyncio.Future[Connection] | None = None
        self.reading: asyncio.Task[None] | None = None
        self.waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # since when, in order

    async def ask(self, *command: Any) -> Any:
        """The reply to one command of strings, bytes and numbers: bytes, a number, or a list of them."""
        connection = self.connection or await self.open()
        loop = asyncio.get_running_loop()
        reply = loop.create_future()
        self.waiting.append((loop.time(), reply))
        try:
            await connection.send_packed_command(
                [hiredis.pack_command(command)], check_health=False
            )
            return await reply
        except BaseException:
            reply.cancel()  # it comes all the same, and is nobody's then
            raise

    async def open(self) -> Connection:
        """The connection; many that need it at once make one."""
        if self.opening is None:
            self.opening = asyncio.ensure_future(self.connect())
            self.opening.add_done_callback(self.opened)
        return await asyncio.shield(self.opening)

    def opened(self, _: object) -> None:
        self.opening = None

    async def connect(self) -> Connection:
        made: Connection = self.pool.make_connection()  # type: ignore[no-untyped-call]
        await made.connect()  # type: ignore[no-untyped-call]
        self.connection = made
        self.reading = asyncio.create_task(self.read(made))
        self.watch(made)
        return made

    async def read(self, connection: Connection) -> None:
        """Replies, to who waits for them, until the connection ends."""
        error: Exception = TimedOut("Valkey does not reply")
        try:
            while True:
                try:
                    said, refused = await connection.read_response(timeout=math.inf), None
                except ResponseError as one:
                    said, refused = None, one
                _, reply = self.waiting.popleft()
                if not reply.done():
                    reply.set_exception(refused) if refused else reply.set_result(said)
        except (RedisError, OSError) as one:
            error = one
        finally:
            self.connection = None
            while self.waiting:
                _, reply = self.waiting.popleft()
                if not reply.done():
                    reply.set_exception(error)
            await connection.disconnect(nowait=True)

    def watch(self, connection: Connection) -> None:
        """End a connection over which a reply is overdue."""
        if connection is not self.connection or self.reading is None:
            return
        loop = asyncio.get_running_loop()
        if self.waiting and loop.time() - self.waiting[0][0] > REPLY_SECONDS:
            self.reading.cancel()
        else:
            loop.call_later(WATCH_SECONDS, self.watch, connection)

    async def close(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.wait({self.reading})
