"""What an API key may use: reserved in Valkey before an engine is asked, settled afterwards.

One call to Valkey for each request, none for a key without limits: what ended goes along with the
next reservation of the same key, or soon after by itself. A minute's limits are buckets that fill
evenly. Tokens of the day and ever are counted; what runs holds what it may still use. Whoever
holds says so again each second, so that what a killed gateway held is free within `LEASE`.
Flushing Valkey loses nothing: counts are made anew from the ledger, what runs is told again. While
Valkey is away each process counts alone (`gateway.alone`).
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from app.accounts.limits import Limits
from app.config import ROOT, settings
from app.errors import N_, TooMany
from app.gateway import alone, ledger

log = structlog.get_logger()

LEASE = 10.0  # seconds for which a slot is held without a sign of life
RENEW_SECONDS = 1.0
SOON = 0.02  # seconds after which an end is told by itself
AWAY_SECONDS = 1.0  # before Valkey is tried again
HELD = "danlu:held:"  # and the key's id: {request and tokens: until when}
SCRIPT = (ROOT / "app" / "gateway" / "limits.lua").read_text()
# what one process holds of a key; a member that is new here holds its tokens again
RENEW = """
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for at = 2, #ARGV do
  if redis.call('ZADD', KEYS[2], till, ARGV[at]) == 1 then
    redis.call('HINCRBY', KEYS[1], 'holds', string.match(ARGV[at], ' (%d+)$'))
  end
end
redis.call('PEXPIRE', KEYS[2], 10 * ARGV[1])
"""
UNKNOWN = "unknown"


@dataclass(eq=False)
class Reservation:
    """What one request holds of its key's limits."""

    key_id: str
    limits: Limits
    member: str  # in Valkey: the request and its tokens
    tokens: int
    requests_left: int
    tokens_left: int

    def headers(self) -> dict[str, str]:
        return headers(self.limits, self.requests_left, self.tokens_left)


@dataclass(frozen=True)
class Need:
    """Tokens that a request may use: an estimate of its prompt, and of its answer at most."""

    prompt: int
    least: int  # of the answer, if it says so
    most: int


def headers(limits: Limits, requests_left: int, tokens_left: int) -> dict[str, str]:
    """OpenAI's `x-ratelimit-…`; `reset` is when the minute's bucket would be full again."""
    found = {}
    for name, limit, left in (
        ("requests", limits.rpm, requests_left),
        ("tokens", limits.tpm, tokens_left),
    ):
        if limit is not None:
            found[f"x-ratelimit-limit-{name}"] = str(limit)
            found[f"x-ratelimit-remaining-{name}"] = str(max(left, 0))
            found[f"x-ratelimit-reset-{name}"] = duration(60 * (limit - left) / limit)
    return found


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 6.5s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(max(seconds, 0) * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:.3g}s"


# -- what this process holds -------------------------------------------------------------

held: dict[str, dict[str, Reservation]] = {}  # key → member → what it holds
ended: dict[str, list[tuple[Reservation, int]]] = {}  # key → not told yet, with the tokens used
behind: set[str] = set()  # keys of which Valkey may have missed something
away_until = 0.0
renewing: asyncio.Future[Any] | None = None
telling: set[asyncio.Task[None]] = set()


valkey: Redis | None = None
script: AsyncScript | None = None


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """As long as requests are taken; what ended last is told before it ends."""
    global valkey, script
    async with Redis.from_url(
        settings.redis_url, socket_timeout=2, socket_connect_timeout=1
    ) as valkey:
        script = valkey.register_script(SCRIPT)
        renewal = asyncio.create_task(renew_forever())
        try:
            yield
        finally:
            renewal.cancel()
            if telling:
                await asyncio.wait(telling, timeout=2)


async def reserve(key_id: str, limits: Limits, request_id: str, need: Need) -> Reservation:
    """Take what the request may need. Raises TooMany, which says when to come again."""
    least = need.prompt + need.least
    most = max(least, need.prompt + need.most)
    found = None
    if time.monotonic() >= away_until:
        try:
            found = await ask(key_id, limits, request_id, least, most)
        except (RedisError, OSError) as error:
            gone_away(error)
    if found is None:
        behind.add(key_id)
        found = await alone.reserve(key_id, limits, held.get(key_id, {}).values(), least, most)
    verdict, requests_left, tokens_left, tokens, wait = found
    if verdict != "ok":
        raise refused(verdict, limits, requests_left, tokens_left, wait)
    made = Reservation(key_id, limits, f"{request_id} {tokens}", tokens, requests_left, tokens_left)
    held.setdefault(key_id, {})[made.member] = made
    return made


async def ask(key_id: str, limits: Limits, request_id: str, least: int, most: int) -> alone.Found:
    """One call, two if Valkey does not know what the key has used. Raises RedisError, OSError."""
    done = ended.pop(key_id, [])
    seeds: Sequence[int] = (-1, -1)
    if key_id in behind:
        seeds = await run_in_threadpool(ledger.used, key_id)
    for _ in range(2):
        found = await call(key_id, limits, done, [request_id, least, most, *seeds])
        behind.discard(key_id)
        if found[0] != UNKNOWN:
            break
        done = []
        seeds = await run_in_threadpool(ledger.used, key_id)
    return cast("alone.Found", found)


async def call(
    key_id: str, limits: Limits, done: list[tuple[Reservation, int]], asked: list[Any]
) -> tuple[Any, ...]:
    """The script, once. `done` is told again, as `behind`, if it fails."""
    if renewing is not None and done:  # else it may be told of what has ended
        await asyncio.wait({renewing})
    ends = [value for one, used in done for value in (one.member, one.tokens, used)]
    numbers = (limits.rpm, limits.tpm, limits.parallel, limits.daily_tokens, limits.total_tokens)
    assert script is not None, "the gateway's lifespan has not started"
    try:
        verdict, *rest = await script(
            keys=[ledger.COUNTERS + key_id, HELD + key_id],
            args=[
                int(LEASE * 1000),
                *(number or 0 for number in numbers),
                len(done),
                *ends,
                *asked,
            ],
        )
    except BaseException:
        behind.add(key_id)
        raise
    come_back()
    return (verdict.decode(), *rest)


def settle(reservation: Reservation, tokens: int) -> None:
    """The request has ended and used so many tokens."""
    key_id = reservation.key_id
    mine = held.get(key_id, {})
    mine.pop(reservation.member, None)
    if not mine:
        held.pop(key_id, None)
    alone.settle(reservation, tokens)
    if key_id in ended:
        ended[key_id].append((reservation, tokens))
        return
    ended[key_id] = [(reservation, tokens)]
    task = asyncio.create_task(tell(key_id, reservation.limits))
    telling.add(task)
    task.add_done_callback(telling.discard)


async def tell(key_id: str, limits: Limits) -> None:
    """Valkey, of what has ended, unless a reservation was quicker."""
    here = len(held.get(key_id, ())) + len(ended[key_id])
    if limits.parallel is None or 2 * here < limits.parallel:  # nobody waits for the slot
        await asyncio.sleep(SOON)
    done = ended.pop(key_id, [])
    if time.monotonic() < away_until:
        behind.add(key_id)
    elif done:
        try:
            await call(key_id, limits, done, [])
        except (RedisError, OSError) as error:
            gone_away(error)


def refused(
    verdict: str, limits: Limits, requests_left: int, tokens_left: int, wait: int
) -> TooMany:
    limit = getattr(limits, verdict)
    error = TooMany(
        SENTENCES[verdict],
        code="insufficient_quota" if verdict == "total_tokens" else "rate_limit_exceeded",
        retry_after=max(1, math.ceil(wait / 1000)),
        limit=limit,
    )
    error.headers = headers(limits, requests_left, tokens_left)
    return error


SENTENCES = {
    "rpm": N_("This API key may send %(limit)s requests a minute. Wait a moment."),
    "tpm": N_("This API key may use %(limit)s tokens a minute. Wait a moment, or ask for less."),
    "parallel": N_("This API key may have %(limit)s requests running at the same time."),
    "daily_tokens": N_(
        "This API key may use %(limit)s tokens a day, and what is left does not suffice. The day "
        "ends at midnight UTC."
    ),
    "total_tokens": N_(
        "This API key may use %(limit)s tokens in all, and what is left does not suffice."
    ),
}


# -- Valkey, away and back ---------------------------------------------------------------


def gone_away(error: Exception) -> None:
    global away_until
    if not away_until:
        log.warning("Valkey is away: each gateway counts alone", error=str(error))
    away_until = time.monotonic() + AWAY_SECONDS


def come_back() -> None:
    global away_until
    if away_until:
        away_until = 0.0
        log.warning("Valkey is back")


async def renew() -> None:
    """Say again what is held: it stays ours, and Valkey may have been flushed."""
    assert valkey is not None
    for key_id in list(held):
        mine = [member for member, one in held.get(key_id, {}).items() if one.limits.held]
        if mine:
            keys = (ledger.COUNTERS + key_id, HELD + key_id)
            await valkey.eval(RENEW, 2, *keys, round(LEASE * 1000), *mine)


async def renew_forever() -> None:
    global renewing
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        renewing = asyncio.ensure_future(renew())
        try:
            await renewing
        except (RedisError, OSError) as error:
            log.debug("what is held is said later", error=str(error))
        finally:
            renewing = None
