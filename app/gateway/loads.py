"""How busy each engine is, known without asking anybody while a request waits.

What this process has open is counted here. Processes tell each other theirs through Valkey, four
times a second while they route to more than one replica; what one says counts for two seconds.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.config import settings
from app.db import new_id
from app.deployments import idle
from app.deployments.service import RouteReplica
from app.queue import transaction

log = structlog.get_logger()

EXCHANGE_SECONDS = 0.25
FRESH_MS = 2000
SHARING_SECONDS = 10.0  # after the last request that had a choice, others need not know
COOLING_SECONDS = 5.0  # for which an engine that failed is asked last
USED_SECONDS = 10.0
KEY = "danlu:loads"
# One round trip: say what we have open, hear what the others said lately. The server's clock counts.
EXCHANGE = """
local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', at) .. ARGV[2])
local all, found = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local said, counts = string.match(all[i + 1], '^(%d+) (.*)$')
  if at - tonumber(said) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[1] then
    table.insert(found, counts)
  end
end
return found
"""

process = new_id("gw")
in_flight: Counter[str] = Counter()  # by replica, and by deployment: what this process has open
elsewhere: Counter[str] = Counter()  # the same of all others, a moment ago
used: set[str] = set()  # replicas and deployments whose requests ended since the last look
cooling: dict[str, float] = {}  # replica → until when
shared = -SHARING_SECONDS  # when a request last had a choice


def begin(*ids: str) -> None:
    """A request is with this replica, for this deployment."""
    in_flight.update(ids)


def end(*ids: str) -> None:
    for one in ids:
        in_flight[one] -= 1
        if in_flight[one] <= 0:
            del in_flight[one]
    used.update(ids)


def cool(replica_id: str) -> None:
    """It has just failed: others come first for some seconds."""
    if len(cooling) > 1000:
        cooling.clear()
    cooling[replica_id] = time.monotonic() + COOLING_SECONDS


def order(replicas: Iterable[RouteReplica]) -> list[RouteReplica]:
    """The least busy first, chance deciding among equals; those that just failed last."""
    global shared
    found = list(replicas)
    if len(found) < 2:
        return found
    shared = time.monotonic()
    return sorted(
        found,
        key=lambda one: (
            cooling.get(one.id, 0.0) > shared,
            in_flight[one.id] + elsewhere[one.id],
            random.random(),  # noqa: S311 - no secret hangs on it
        ),
    )


# -- told to others ----------------------------------------------------------------------


async def exchange(valkey: Redis, name: str = process) -> None:
    """Tell the other processes what is open here, and hear what is open there."""
    mine = {one: count for one, count in in_flight.items() if one.startswith("rep_")}
    said = await valkey.eval(EXCHANGE, 1, KEY, name, orjson.dumps(mine), FRESH_MS)
    elsewhere.clear()
    for counts in said:
        elsewhere.update(orjson.loads(counts))


async def exchange_forever() -> None:
    """A Valkey that is away leaves each process with its own count."""
    async with Redis.from_url(
        settings.redis_url, socket_timeout=1, socket_connect_timeout=1
    ) as valkey:
        while True:
            await asyncio.sleep(EXCHANGE_SECONDS)
            if time.monotonic() - shared > SHARING_SECONDS:
                elsewhere.clear()
                continue
            try:
                await exchange(valkey)
            except (RedisError, OSError, ValueError) as error:
                elsewhere.clear()
                log.debug("the loads of other processes are unknown", error=str(error))


# -- told to the rows --------------------------------------------------------------------


async def note_use_forever() -> None:
    """Keep awake what has requests open, or had: see `app.deployments.idle`."""
    while True:
        await asyncio.sleep(USED_SECONDS)
        await note_use()


async def note_use() -> None:
    ids = used | set(in_flight)
    used.clear()
    if not ids:
        return
    try:
        await run_in_threadpool(touch, ids)
    except DBAPIError as error:
        used.update(ids)
        log.warning("use is noted later", error=str(error).splitlines()[0])


def touch(ids: set[str]) -> None:
    with transaction() as db:
        idle.touch(db, ids)
