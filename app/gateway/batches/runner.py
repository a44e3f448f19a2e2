"""What works on batches: beside the requests of each web process, one task per batch.

A batch is held by a row that has to be renewed: of a process that was killed another takes it up, and
does only the lines that have no answer yet. No thread and no database session is held while engines
work.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.db import new_id
from app.errors import N_, NotFound
from app.gateway.batches import ending, holding
from app.gateway.batches.asking import BatchAsking
from app.gateway.batches.holding import Lost
from app.gateway.batches.lines import Check, problem, raw
from app.gateway.batches.tables import Batch
from app.gateway.files import service as files
from app.gateway.service import Caller
from app.queue import transaction

log = structlog.get_logger()

LOOK_SECONDS = 1.0
BEAT_SECONDS = 1.0
MOST = 8  # batches that this process works on at a time
CHUNK = 200  # lines that are checked at a time
FAULT = N_("This is our fault, not yours. Try again; if it stays, report the id %(id)s.")
NO_FILE = N_("The input file is no longer there.")

process = f"{socket.gethostname()}:{os.getpid()}:{new_id('gw')}"
running: set[asyncio.Task[None]] = set()


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Work on batches as long as the process lives. Inside the gateway's own lifespan."""
    looking = asyncio.create_task(look_forever())
    try:
        yield
    finally:
        tasks = [looking, *running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        running.clear()


async def look_forever() -> None:
    while True:
        try:
            while len(running) < MOST and (
                batch := await run_in_threadpool(holding.claim, process)
            ):
                task = asyncio.create_task(work(batch))
                running.add(task)
                task.add_done_callback(running.discard)
        except DBAPIError as error:
            log.warning("batches wait for the database", error=str(error).splitlines()[0])
        await asyncio.sleep(LOOK_SECONDS)


@dataclass
class Hold:
    """A batch that this process works on, for as long as it may."""

    batch: Batch
    caller: Caller = field(init=False)  # as whom its lines are asked
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # cancelled, late, or another's
    silent: bool = False  # the database was away for so long that others may have taken it up
    waits: dict[str, Any] | None = None  # why nothing goes on


async def work(batch: Batch) -> None:
    """Carry a batch to its end, unless this process ends or somebody else does it."""
    hold = Hold(batch)
    beating = asyncio.create_task(beat_forever(hold))
    try:
        await carry(hold)
    except Lost:
        log.info("somebody else works on a batch", batch=batch.id)
    except (DBAPIError, OSError) as error:  # after some seconds of silence somebody tries again
        log.warning("a batch waits", batch=batch.id, error=str(error).splitlines()[0])
    except asyncio.CancelledError:
        with contextlib.suppress(Lost, DBAPIError):
            await asyncio.to_thread(holding.let_go, batch.id, batch.fence)
        raise
    except Exception:
        log.exception("a batch failed", batch=batch.id)
        with contextlib.suppress(Lost, DBAPIError, OSError):
            fault = [problem("internal_error", FAULT, id=batch.id)]
            await run_in_threadpool(ending.write, batch, fault)
    finally:
        beating.cancel()


async def carry(hold: Hold) -> None:
    """From whatever status it is in to the end. Raises Lost."""
    batch = hold.batch
    try:
        path = await run_in_threadpool(input_path, batch)
    except NotFound:
        missing = problem("file_not_found", NO_FILE, param="input_file_id")
        await run_in_threadpool(ending.write, batch, [missing])
        return
    if batch.status == "validating" and not ending.late(batch):
        check = await checked(hold, path)
        if check.errors:
            await run_in_threadpool(ending.write, batch, check.errors)
            return
        if not hold.ended.is_set():
            batch = hold.batch = await run_in_threadpool(
                holding.begin, batch.id, batch.fence, check.model, check.total
            )
    await beat(hold)
    if batch.status == "in_progress" and not hold.ended.is_set():
        asking = BatchAsking(hold, path, await run_in_threadpool(holding.done, batch.id))
        await asking.all()
        if asking.refusal:
            await run_in_threadpool(ending.write, batch, [asking.refusal])
            return
    if hold.silent:
        raise Lost(batch.id)
    batch = await run_in_threadpool(holding.finalize, batch.id, batch.fence)
    await run_in_threadpool(ending.write, batch)


def input_path(batch: Batch) -> Path:
    """Where the input file is on this machine. Raises NotFound."""
    with transaction() as db:
        file = files.get(db, batch.workspace_id, batch.input_file_id)
    return files.path(file)


async def checked(hold: Hold, path: Path) -> Check:
    """All lines read, unless the hold ended meanwhile."""
    check = Check(hold.batch.endpoint)
    with path.open("rb") as file:
        found = raw(file)
        while await run_in_threadpool(check_some, check, found):
            if hold.ended.is_set():
                return check
    check.end()
    return check


def check_some(check: Check, found: Iterator[tuple[int, bytes]]) -> bool:
    """Take in a few lines; whether there may be more."""
    before = check.total
    for number, data in itertools.islice(found, CHUNK):
        check.take(number, data)
    return before < check.total and not check.over


async def beat(hold: Hold) -> None:
    """Keep hold of the batch, and see whether it is cancelled, late or another's. Raises Lost."""
    batch = hold.batch
    seen, hold.caller = await run_in_threadpool(holding.beat, batch.id, batch.fence, hold.waits)
    if seen.status not in ("validating", "in_progress") or ending.late(seen):
        hold.ended.set()


async def beat_forever(hold: Hold) -> None:
    last = time.monotonic()
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            await beat(hold)
        except Lost:
            hold.ended.set()
            return
        except DBAPIError as error:
            log.warning("a batch waits for the database", error=str(error).splitlines()[0])
            if time.monotonic() - last > holding.SILENT.total_seconds():
                hold.silent = True
                hold.ended.set()
        else:
            last = time.monotonic()
