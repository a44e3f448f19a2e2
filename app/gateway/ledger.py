"""Usage that survives: in a spool file first, then flushed to Postgres.

A request's row is there, open, before an engine is asked, and settled when the request ends: so
neither a database that is away nor a kill -9 loses it. What a process leaves open when it dies is
settled by whoever flushes next. Rows are idempotent by request id: flushing twice is harmless.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import orjson
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.gateway import figures, scopes, spool
from app.gateway.scopes import Scope
from app.gateway.spool import Row
from app.queue import redis, transaction
from app.quotas import service as quotas

log = structlog.get_logger()
FLUSH_SECONDS = 1.0
RECENT = timedelta(seconds=10)  # longer than Valkey is told late, and than limits.lua looks back
COUNTERS = "danlu:limits:"  # and the id of a scope: what it used, see `gateway.limits`
COUNTED = ("total", "count")  # fields of it; without them the ledger is counted anew
DIED = 500  # the status of a request whose gateway was killed

running: dict[str, Callable[[], Row]] = {}  # request → what its row would say just now
unwritten: list[Row] = []  # settled while the disk was full


def begin(row: Callable[[], Row]) -> None:
    """An engine is about to be asked. `row`: see `append`."""
    now = row()
    spool.append(line(now, is_open=True))
    running[now["id"]] = row


def append(row: Row) -> None:
    """A request has ended: its row (columns of `quotas.tables.Usage`)."""
    running.pop(row["id"], None)
    figures.observe(row)
    try:
        spool.append(line(row))
    except OSError as error:
        unwritten.append(row)
        log.warning("usage is kept in memory", error=str(error))


def line(row: Row, *, is_open: bool = False) -> bytes:
    return orjson.dumps(row | {"open": True} if is_open else row) + b"\n"


def flush() -> int:
    """Move every settled row to Postgres; the number of rows. A file goes after the commit.

    What this process has open goes on in its next file, with what is known of it by now.
    """
    with spool.lock:
        still = b"".join(line(row(), is_open=True) for row in list(running.values()))
        ours = spool.turn(still)
        kept = list(unwritten)
    total = store(ours, [*settled_of(spool.read(ours)), *kept])
    del unwritten[: len(kept)]
    with spool.left_behind() as others:
        for paths in others:
            rows = spool.read(paths)
            done = settled_of(rows)
            left = {row["id"]: row for row in rows if row.get("open")}  # the last line counts
            for row in done:
                left.pop(row["id"], None)
            total += store(paths, [*done, *(row | {"status": DIED} for row in left.values())])
            forget(left.values())
    return total


def settled_of(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.get("open")]


def store(paths: list[Path], rows: list[Row]) -> int:
    if rows:
        with transaction() as db:
            quotas.record(db, rows)
    for path in paths:
        path.unlink(missing_ok=True)
    return len(rows)


def forget(rows: Iterable[Row]) -> None:
    """Their counters are made anew from the ledger: nobody else tells them of these."""
    try:
        for scope_id in {one for row in rows for one in scopes.ids_of(row)}:
            redis().hdel(COUNTERS + scope_id, *COUNTED)
    except (RedisError, OSError) as error:
        log.warning("the counters of limits are behind the ledger", error=str(error))


async def flush_forever() -> None:
    """Flush each second; a database that is away only delays."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            await run_in_threadpool(flush)
        except (DBAPIError, OSError) as error:
            log.warning("usage stays in the spool", error=str(error).splitlines()[0])


@dataclass(frozen=True)
class Use:
    """Tokens of a scope; 0 for what it is not limited by."""

    today: int  # UTC
    month: int  # UTC
    ever: int
    recent: list[str]  # requests that ended in the last seconds and are in it


def used(scope: Scope) -> Use:
    """From the spool and from Postgres."""
    settled = [*spool.settled(), *unwritten]
    here = {row["id"]: row for row in settled if scope.id in scopes.ids_of(row)}
    today = month = ever = 0
    with transaction() as db:
        db.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        if scope.kind == scopes.KEY:
            today, ever = quotas.tokens_of_key(db, scope.id, here)
            recent = quotas.ended_lately(db, RECENT, api_key_id=scope.id)
        else:
            whose = {"user_id": scope.user_id} if scope.user_id else {}
            month = quotas.tokens_of_month(db, scope.workspace_id, scope.user_id, here)
            recent = quotas.ended_lately(db, RECENT, workspace_id=scope.workspace_id, **whose)
    return Use(today, month, ever, [*here, *recent])
