"""What a request may use: reserved in Valkey before an engine is asked, settled afterwards.

It counts against its API key, its member and its workspace (`gateway.scopes`): of all of them in
one call to Valkey, none where nobody has limits. What ended goes along with the next reservation
of the same scopes, or soon after by itself. A minute's limits are buckets that fill evenly. Tokens
of the day, the month and ever are counted; what runs holds what it may still use. Whoever
holds says so again each second, so that what a killed gateway held is free within `LEASE`.
Flushing Valkey loses nothing: what runs is told again, and the ledger is counted anew; what ends
while that is done counts once, whether the count has it or not. While Valkey is away each process
counts alone (`gateway.alone`).
"""

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import NoScriptError, RedisError
from starlette.concurrency import run_in_threadpool

from app.config import ROOT, settings
from app.errors import N_, TooMany
from app.gateway import alone, ledger
from app.gateway.scopes import KEY, MEMBER, WORKSPACE, Scope
from app.gateway.valkey import Valkey
from app.quotas.service import midnight, month_of

log = structlog.get_logger()

LEASE = 10.0  # seconds for which a slot is held without a sign of life
RENEW_SECONDS = 1.0
SOON = 0.02  # seconds after which an end is told by itself
AWAY_SECONDS = 1.0  # before Valkey is tried again
HELD = "danlu:held:"  # and a scope's id: {request and tokens: until when}
LATE = "danlu:late:"  # and a scope's id: see limits.lua
SCRIPT = (ROOT / "app" / "gateway" / "limits.lua").read_text()
NAME = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # at Valkey
# what one process holds of a scope; a member that is new here holds its tokens again
RENEW = """
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for at = 2, #ARGV do
  if redis.call('ZADD', KEYS[2], till, ARGV[at]) == 1 then
    redis.call('HINCRBY', KEYS[1], 'holds', string.match(ARGV[at], ' (%d+)$'))
  end
end
return redis.call('PEXPIRE', KEYS[2], 10 * ARGV[1])
"""
UNKNOWN = "unknown"
Counted = tuple[int, int, int, int, str]  # as the script has it
NOT_COUNTED: Counted = (-1, -1, -1, -1, "")
Group = tuple[str, ...]  # ids of scopes


@dataclass(eq=False)
class Reservation:
    """What one request holds of its scopes' limits."""

    scopes: tuple[Scope, ...]
    group: Group
    member: str  # in Valkey: the request and its tokens
    tokens: int
    left: tuple[tuple[int, int], ...]  # of each scope, requests and tokens in this minute

    def headers(self) -> dict[str, str]:
        return headers(self.scopes, self.left)


@dataclass(frozen=True)
class Need:
    """Tokens that a request may use: an estimate of its prompt, and of its answer at most."""

    prompt: int
    least: int  # of the answer, if it says so
    most: int


def headers(scopes: Sequence[Scope], left: Sequence[tuple[int, int]]) -> dict[str, str]:
    """OpenAI's `x-ratelimit-…`, of the scope that has least left; `reset` is when its bucket of a
    minute would be full again.
    """
    found = {}
    for place, name, column in ((0, "requests", "rpm"), (1, "tokens", "tpm")):
        tightest: tuple[int, int] | None = None
        for scope, one in zip(scopes, left, strict=True):
            limit = scope.rpm if column == "rpm" else scope.tpm
            if limit is not None and (tightest is None or one[place] < tightest[0]):
                tightest = (one[place], limit)
        if tightest is not None:
            rest, limit = tightest
            found[f"x-ratelimit-limit-{name}"] = str(limit)
            found[f"x-ratelimit-remaining-{name}"] = str(max(rest, 0))
            found[f"x-ratelimit-reset-{name}"] = duration(60 * (limit - rest) / max(limit, 1))
    return found


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 6.5s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(max(seconds, 0) * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:.3g}s"


# -- what this process holds -------------------------------------------------------------

held: dict[str, dict[str, Reservation]] = {}  # scope → member → what it holds
ended: dict[Group, list[tuple[Reservation, int]]] = {}  # not told yet, with the tokens used
behind: set[str] = set()  # scopes of which Valkey may have missed something
counting: dict[tuple[str, int], asyncio.Task[Counted]] = {}  # scope and number of the count
away_until = 0.0
month = (0, 0)  # see `this_month`
renewing: set[asyncio.Task[None]] = set()
telling: set[asyncio.Task[None]] = set()


valkey: Valkey | None = None


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """As long as requests are taken; what ended last is told before it ends."""
    global valkey
    valkey = connections = Valkey(settings.redis_url)
    renewal = asyncio.create_task(renew_forever())
    try:
        yield
    finally:
        renewal.cancel()
        if telling:
            await asyncio.wait(telling, timeout=2)
        await connections.close()


async def reserve(scopes: tuple[Scope, ...], request_id: str, need: Need) -> Reservation:
    """Take what the request may need, of all scopes at once. Raises TooMany, which says when to
    come again.
    """
    least = need.prompt + need.least
    most = max(least, need.prompt + need.most)
    found = None
    group = tuple([scope.id for scope in scopes])
    if time.monotonic() >= away_until:
        try:
            found = await ask(scopes, group, request_id, least, most)
        except (RedisError, OSError) as error:
            gone_away(error)
    if found is None:
        behind.update(group)
        found = await alone.reserve(scopes, held, least, most)
    if found.verdict != "ok":
        raise refused(scopes, found)
    member = f"{request_id} {found.tokens}"
    made = Reservation(scopes, group, member, found.tokens, found.left)
    for scope in scopes:
        if scope.holds:
            held.setdefault(scope.id, {})[member] = made
    return made


async def ask(
    scopes: tuple[Scope, ...], group: Group, request_id: str, least: int, most: int
) -> alone.Found:
    """One call, and one more for each scope of which Valkey does not know what it has used.

    Raises RedisError, OSError.
    """
    if missed := behind.intersection(group):
        await forget(missed)
    done = ended.pop(group, [])
    counted: dict[str, Counted] = {}
    while True:
        told = [counted.get(scope.id, NOT_COUNTED) for scope in scopes] if counted else ()
        asked = [request_id, least, most, *(value for each in told for value in each)]
        found = await call(scopes, done, asked)
        if found.verdict != UNKNOWN:
            return found
        done = []
        scope = scopes[found.scope]
        counted[scope.id] = await count(scope, found.tokens)


async def forget(missed: Collection[str]) -> None:
    """What these scopes have used is to be counted anew, and no count that has begun serves."""
    assert valkey is not None
    for scope_id in missed:
        await valkey.ask("HDEL", ledger.COUNTERS + scope_id, *ledger.COUNTED)
    behind.difference_update(missed)


async def count(scope: Scope, number: int) -> Counted:
    """What the ledger says, once for all here who are asked for the same count."""
    key = (scope.id, number)
    task = counting.get(key)
    if task is None:
        task = counting[key] = asyncio.create_task(count_anew(scope, number))
        task.add_done_callback(lambda _: counting.pop(key, None))
    return await asyncio.shield(task)


async def count_anew(scope: Scope, number: int) -> Counted:
    """Valkey is told what runs as well: it may have forgotten that too."""
    use = await run_in_threadpool(ledger.used, scope)
    await renew([scope.id])
    return use.today, use.month, use.ever, number, " ".join(use.recent)


async def call(
    scopes: tuple[Scope, ...], done: list[tuple[Reservation, int]], asked: list[Any]
) -> alone.Found:
    """The script, once. `done` is told again, as `behind`, if it fails."""
    if renewing and done:  # else it may be told of what has ended
        await asyncio.wait(set(renewing))
    ends = [value for one, used in done for value in (one.member, one.tokens, used)]
    keys = [prefix + one.id for one in scopes for prefix in (ledger.COUNTERS, HELD, LATE)]
    numbers = [number for one in scopes for number in one.numbers]
    given = (int(LEASE * 1000), len(scopes), *this_month(), *numbers, len(done), *ends, *asked)
    try:
        verdict, place, tokens, wait, *left = await run_script(len(keys), *keys, *given)
    except BaseException:
        behind.update(one.id for one in scopes)
        raise
    come_back()
    pairs = tuple(zip(left[::2], left[1::2], strict=True))
    return alone.Found(verdict.decode(), max(0, place - 1), tokens, wait, pairs)


async def run_script(*of: str | int) -> Any:
    assert valkey is not None, "the gateway's lifespan has not started"
    try:
        return await valkey.ask("EVALSHA", NAME, *of)
    except NoScriptError:
        return await valkey.ask("EVAL", SCRIPT, *of)


def this_month() -> tuple[int, int]:
    """Its number, and when it ends (UTC): milliseconds since 1970."""
    global month
    if time.time() * 1000 >= month[1]:
        start, ends = month_of(midnight())
        month = (start.year * 12 + start.month, round(ends.timestamp() * 1000))
    return month


def settle(reservation: Reservation, tokens: int) -> None:
    """The request has ended and used so many tokens."""
    for scope in reservation.scopes:
        if mine := held.get(scope.id):
            mine.pop(reservation.member, None)
            if not mine:
                held.pop(scope.id, None)
    alone.settle(reservation, tokens)
    group = reservation.group
    if group in ended:
        ended[group].append((reservation, tokens))
        return
    ended[group] = [(reservation, tokens)]
    task = asyncio.create_task(tell(group, reservation.scopes))
    telling.add(task)
    task.add_done_callback(telling.discard)


async def tell(group: Group, scopes: tuple[Scope, ...]) -> None:
    """Valkey, of what has ended, unless a reservation was quicker."""
    if group not in ended:  # a reservation has told it
        return
    if not any(may_wait_for(scope, len(ended[group])) for scope in scopes):
        await asyncio.sleep(SOON)
    done = ended.pop(group, [])
    if time.monotonic() < away_until:
        behind.update(group)
    elif done:
        try:
            await call(scopes, done, [])
        except (RedisError, OSError) as error:
            gone_away(error)


def may_wait_for(scope: Scope, ends: int) -> bool:
    """Whether somebody may wait for a slot that has come free."""
    here = len(held.get(scope.id, ())) + ends
    return scope.parallel is not None and 2 * here >= scope.parallel


def refused(scopes: tuple[Scope, ...], found: alone.Found) -> TooMany:
    scope = scopes[found.scope]
    error = TooMany(
        SENTENCES[scope.kind, found.verdict],
        code="insufficient_quota" if found.verdict in USED_UP else "rate_limit_exceeded",
        retry_after=max(1, math.ceil(found.wait / 1000)),
        limit=getattr(scope, found.verdict),
    )
    error.headers = headers(scopes, found.left)
    return error


USED_UP = ("monthly_tokens", "total_tokens")
SENTENCES = {
    (KEY, "rpm"): N_("This API key may send %(limit)s requests a minute. Wait a moment."),
    (KEY, "tpm"): N_(
        "This API key may use %(limit)s tokens a minute. Wait a moment, or ask for less."
    ),
    (KEY, "parallel"): N_("This API key may have %(limit)s requests running at the same time."),
    (KEY, "daily_tokens"): N_(
        "This API key may use %(limit)s tokens a day, and what is left does not suffice. The day "
        "ends at midnight UTC."
    ),
    (KEY, "total_tokens"): N_(
        "This API key may use %(limit)s tokens in all, and what is left does not suffice."
    ),
    (MEMBER, "tpm"): N_(
        "You may use %(limit)s tokens a minute in this workspace. Wait a moment, or ask for less."
    ),
    (MEMBER, "monthly_tokens"): N_(
        "You may use %(limit)s tokens a month in this workspace, and what is left does not "
        "suffice. The month ends at midnight UTC; ask for more on the usage page."
    ),
    (WORKSPACE, "tpm"): N_(
        "This workspace may use %(limit)s tokens a minute. Wait a moment, or ask for less."
    ),
    (WORKSPACE, "monthly_tokens"): N_(
        "This workspace may use %(limit)s tokens a month, and what is left does not suffice. The "
        "month ends at midnight UTC; ask for more on the usage page."
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


async def renew(scope_ids: Iterable[str]) -> None:
    """Say again what is held of them: it stays ours, and Valkey may have been flushed.

    Raises RedisError, OSError.
    """
    task = asyncio.create_task(hold(scope_ids))
    renewing.add(task)
    task.add_done_callback(renewing.discard)
    await task


async def hold(scope_ids: Iterable[str]) -> None:
    assert valkey is not None
    for scope_id in scope_ids:
        if mine := list(held.get(scope_id, {})):
            keys = (ledger.COUNTERS + scope_id, HELD + scope_id)
            await valkey.ask("EVAL", RENEW, 2, *keys, round(LEASE * 1000), *mine)


async def renew_forever() -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            await renew(list(held))
        except (RedisError, OSError) as error:
            log.debug("what is held is said later", error=str(error))
