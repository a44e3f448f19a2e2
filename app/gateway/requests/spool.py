"""The request log on its way: a line in a file when a request ends, a row a moment later.

A request of a key that keeps no log costs one look into a dictionary. Redaction, and all else that
takes time, happens off the hot path. What stands in the file survives this process.
"""

import asyncio
import contextlib
import fcntl
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.accounts.tables import ApiKey
from app.config import settings
from app.db import new_id, now
from app.gateway.requests import entries
from app.gateway.requests.tables import LogChoice, LoggedRequest
from app.queue import transaction

log = structlog.get_logger()

LOOK_SECONDS = 1.0  # also how long a choice takes to count
HEARD = 2 * 2**20  # bytes of an answer that are looked at
MOST_SPOOLED = 256 * 2**20  # bytes; while the database is away nothing is logged beyond them
AT_ONCE = 50  # entries in one transaction


@dataclass(frozen=True)
class Choice:
    full: bool
    days: int
    redact: bool


lock = threading.Lock()
file: BinaryIO | None = None  # that is appended to
choices: dict[str, Choice] = {}  # by API key: those that keep a log


@dataclass
class Record:
    """A request that will be logged."""

    choice: Choice
    endpoint: str
    body: dict[str, Any]
    events: list[bytes] = field(default_factory=list)
    size: int = 0

    def hear(self, event: bytes) -> None:
        if self.choice.full and self.size <= HEARD:
            self.events.append(event)
        self.size += len(event)


def begin(api_key_id: str | None, endpoint: str, body: dict[str, Any]) -> Record | None:
    """None for a key that keeps no log."""
    choice = choices.get(api_key_id or "")
    return Record(choice, endpoint, body) if choice else None


def append(record: Record, exchange: Any) -> None:
    """Write down a request that has ended: a `gateway.service.Exchange`. Fails nothing."""
    full, cut = record.choice.full, record.size > HEARD or len(exchange.answer) > HEARD
    body = record.body if full else entries.without_text(record.body)
    line = {
        "id": exchange.id,
        "at": now().isoformat(),
        "workspace_id": exchange.caller.workspace_id,
        "user_id": exchange.caller.user_id,
        "api_key_id": exchange.caller.api_key_id,
        "endpoint": record.endpoint,
        "model": exchange.name,
        "deployment_id": exchange.route.deployment_id,
        "status": exchange.status,
        "completed": exchange.completed,
        "streamed": bool(record.body.get("stream")) and not exchange.answer,
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": exchange.completion_tokens or exchange.chunks,
        "first_token_ms": exchange.first_token_ms,
        "duration_ms": round((time.perf_counter() - exchange.started) * 1000),
        "full": full,
        "cut": cut,
        "body": body,
        "answer": "" if cut or not full else exchange.answer.decode(errors="replace"),
        "events": [event.decode(errors="replace") for event in record.events],
    }
    try:
        data = orjson.dumps(line) + b"\n"
        with lock:
            own = own_file()
            if own.tell() <= MOST_SPOOLED:
                own.write(data)
                own.flush()
    except (OSError, orjson.JSONEncodeError) as error:
        log.warning("a request is not logged", request=exchange.id, error=str(error))


# -- files -------------------------------------------------------------------------------

# A file has a name that no other process has, and its writer holds a lock on it, which the kernel
# gives back however the writer dies: in a container next to ours, its number would say nothing.


def own_file() -> BinaryIO:
    """The file that is appended to, locked; a new one where there is none."""
    global file
    settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    while file is None or not os.fstat(file.fileno()).st_nlink:  # somebody was at it before us
        if file is not None:
            file.close()
        file = (settings.spool / f"requests-{new_id('lg')}.jsonl").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def let_go() -> None:
    """What we wrote so far is complete: `abandoned` finds it."""
    global file
    with lock:
        if file is not None:
            file.close()
            file = None


@contextlib.contextmanager
def abandoned() -> Iterator[list[Path]]:
    """Spools that nobody appends to. Nobody else is given them meanwhile."""
    found = []
    with contextlib.ExitStack() as stack:
        for path in settings.spool.glob("requests-*.jsonl"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                opened = stack.enter_context(path.open("rb"))
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(path)
        yield found


def flush() -> int:
    """Move what is spooled to Postgres; the number of entries. The file goes after the commit."""
    let_go()
    total = 0
    with abandoned() as paths:
        for path in paths:
            for lines in some(path):
                total += store(lines)
            path.unlink(missing_ok=True)
    return total


def some(path: Path) -> Iterator[list[dict[str, Any]]]:
    few: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(orjson.JSONDecodeError):  # a line cut short by a kill
                few.append(orjson.loads(line))
            if len(few) == AT_ONCE:
                yield few
                few = []
    if few:
        yield few


def store(lines: list[dict[str, Any]]) -> int:
    """As their keys want it now: what is no longer wanted is dropped here. Twice is once."""
    with transaction() as db:
        wanted = look(db, {line["api_key_id"] for line in lines})
    rows = []
    for line in lines:
        if choice := wanted.get(line["api_key_id"]):
            full = choice.full and line["full"]
            rows.append(entries.row(line, full=full, days=choice.days, redact=choice.redact))
    if rows:
        with transaction() as db:
            db.execute(insert(LoggedRequest).on_conflict_do_nothing(), rows)
    return len(rows)


# -- choices -----------------------------------------------------------------------------


def look(db: Any, keys: set[str] | None = None) -> dict[str, Choice]:
    """What keys keep, of all that keep anything or of these."""
    query = (
        select(LogChoice)
        .join(ApiKey, ApiKey.id == LogChoice.api_key_id)
        .where(ApiKey.revoked_at.is_(None) if keys is None else LogChoice.api_key_id.in_(keys))
    )
    return {
        one.api_key_id: Choice(one.log == "full", one.days, one.redact) for one in db.scalars(query)
    }


def refresh() -> None:
    global choices
    with transaction() as db:
        found = look(db)
    choices = found


def turn() -> None:
    refresh()
    flush()


async def turn_forever() -> None:
    while True:
        try:
            await run_in_threadpool(turn)
        except (DBAPIError, OSError) as error:
            log.warning("the request log waits", error=str(error).splitlines()[0])
        await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Beside the requests, as long as the process lives."""
    global choices
    turning = asyncio.create_task(turn_forever())
    try:
        yield
    finally:
        turning.cancel()
        await asyncio.gather(turning, return_exceptions=True)
        choices = {}
        with contextlib.suppress(Exception):  # the spool stays; the next start flushes it
            await asyncio.to_thread(flush)
