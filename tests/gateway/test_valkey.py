"""Commands to Valkey over connections that stay, and that come back."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as Closed
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from app.config import settings
from app.gateway import valkey
from app.gateway.valkey import Valkey
from app.queue import redis

pytestmark = pytest.mark.usefixtures("servers")


def test_many_at_once_get_each_its_own_reply() -> None:
    async def test() -> None:
        here = Valkey(settings.redis_url)
        said = await asyncio.gather(*(here.ask("ECHO", f"n{n}") for n in range(40)))
        assert said == [b"n%d" % n for n in range(40)]
        assert await here.ask("EVAL", "return {KEYS[1], ARGV[1] + 1}", 1, b"k", 2) == [b"k", 3]
        assert not here.waiting
        await here.close()

    asyncio.run(test())


def test_what_it_refuses_is_raised_and_the_connection_stays() -> None:
    async def test() -> None:
        here = Valkey(settings.redis_url)
        with pytest.raises(NoScriptError):
            await here.ask("EVALSHA", "0" * 40, 0)
        with pytest.raises(ResponseError, match="unknown command"):
            await here.ask("NONSENSE")
        one = await here.ask("CLIENT", "ID")
        assert await here.ask("CLIENT", "ID") == one
        await here.close()

    asyncio.run(test())


def test_the_reply_to_who_has_left_is_not_anothers() -> None:
    async def test() -> None:
        here = Valkey(settings.redis_url)
        await here.ask("PING")
        asked = [asyncio.create_task(here.ask("ECHO", f"n{n}")) for n in range(10)]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        said = await asyncio.gather(*asked, return_exceptions=True)
        assert said[1::2] == [b"n%d" % n for n in range(1, 10, 2)]
        assert all(isinstance(one, asyncio.CancelledError) for one in said[::2])
        assert await here.ask("ECHO", "next") == b"next"
        await here.close()

    asyncio.run(test())


def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    async def test() -> None:
        here = Valkey(settings.redis_url)
        one = await here.ask("CLIENT", "ID")
        redis().client_kill_filter(_id=one)
        await asyncio.sleep(0.05)
        assert await here.ask("CLIENT", "ID") != one
        await here.close()

    asyncio.run(test())


def test_one_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "REPLY_SECONDS", 0.2)
    monkeypatch.setattr(valkey, "WATCH_SECONDS", 0.1)

    async def test() -> None:
        here = Valkey(settings.redis_url)
        await here.ask("ECHO", "there")
        redis().client_pause(1500)
        began = time.monotonic()
        try:
            with pytest.raises(TimedOut):
                await here.ask("SET", "danlu:test", "x")
            assert time.monotonic() - began < 1.4
        finally:
            redis().client_unpause()
        assert await here.ask("ECHO", "back") == b"back"  # and not the reply that came too late
        await here.close()

    asyncio.run(test())


def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        here = Valkey(f"unix://{tmp_path}/nobody.sock")
        began = time.monotonic()
        with pytest.raises(Closed):
            await here.ask("ECHO", "x")
        assert time.monotonic() - began < 1

    asyncio.run(test())
