"""Commands to Valkey, without what redis-py's client does around each of them, which costs several times
what a command does. Its connections are as they are: they know addresses, TLS, passwords and replies.
"""

from typing import Any

import hiredis
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Closed
from redis.exceptions import TimeoutError as TimedOut

CONNECT_SECONDS = 1
REPLY_SECONDS = 2.0


class Valkey:
    """Raises RedisError and OSError; a command that fails may have been carried out."""

    def __init__(self, url: str) -> None:
        # who asks knows what to do while it is away; and a `socket_timeout` makes a task of each write
        once = Retry(NoBackoff(), 0)
        self.pool = ConnectionPool.from_url(url, socket_connect_timeout=CONNECT_SECONDS, retry=once)
        self.free: list[Connection] = []

    async def ask(self, *command: Any) -> Any:
        """The reply to one command of strings, bytes and numbers: bytes, a number, or a list of them."""
        connection = self.free.pop() if self.free else self.made()
        packed = hiredis.pack_command(command)
        try:
            if connection.is_connected:
                try:
                    return await said(connection, packed)
                except Closed:  # it was, since it was last used
                    pass
            return await said(connection, packed)
        finally:
            self.free.append(connection)

    def made(self) -> Connection:
        return self.pool.make_connection()  # type: ignore[no-untyped-call, no-any-return]

    async def close(self) -> None:
        for connection in self.free:
            await connection.disconnect()


async def said(connection: Connection, packed: bytes) -> Any:
    await connection.send_packed_command(packed, check_health=False)
    reply = await connection.read_response(timeout=REPLY_SECONDS)
    if reply is None:  # none of our commands is answered so
        await connection.disconnect(nowait=True)
        raise TimedOut
    return reply
