"""Long work beside the requests of each web process: batches and evaluations, one task each.

What is worked on is held by a row that has to be renewed: of a process that was killed another takes it
up, and does only what is not done yet. No thread, no Celery slot and no database session is held while
engines work.
"""

import asyncio
import contextlib
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.db import new_id
from app.errors import N_
from app.gateway.service import Caller

log = structlog.get_logger()

LOOK_SECONDS = 1.0
BEAT_SECONDS = 1.0
SILENT = timedelta(seconds=15)  # after which others take it up
FAULT = N_("This is our fault, not yours. Try again; if it stays, report the id %(id)s.")

process = f"{socket.gethostname()}:{os.getpid()}:{new_id('gw')}"


class Lost(Exception):
    """Somebody else works on this now."""


@dataclass
class Hold(ABC):
    """A row that this process works on, for as long as it may."""

    what: ClassVar[str]  # in the log
    id: str = field(init=False)
    caller: Caller = field(init=False)  # as whom models are asked
    ended: asyncio.Event = field(init=False, default_factory=asyncio.Event)  # or late, or another's
    silent: bool = field(init=False, default=False)  # for so long that others may have taken it up
    waits: dict[str, Any] | None = field(init=False, default=None)  # why nothing goes on

    @abstractmethod
    async def carry(self) -> None:
        """From whatever it has got done to the end, or until `ended`. Raises Lost."""

    @abstractmethod
    async def beat(self) -> None:
        """Keep hold of it; sets `caller`, and `ended` where it is to go on no more. Raises Lost."""

    @abstractmethod
    def let_go(self) -> None:
        """Whoever looks next may take it up. Raises Lost."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """It ends with a fault. Raises Lost."""


async def work(hold: Hold) -> None:
    """Carry it to its end, unless this process ends or somebody else does it."""
    beating = asyncio.create_task(beat_forever(hold))
    try:
        await hold.carry()
    except Lost:
        log.info("somebody else works on it", what=hold.what, id=hold.id)
    except (DBAPIError, OSError) as error:  # after some seconds of silence somebody tries again
        log.warning("it waits", what=hold.what, id=hold.id, error=str(error).splitlines()[0])
    except asyncio.CancelledError:
        with contextlib.suppress(Lost, DBAPIError):
            await asyncio.to_thread(hold.let_go)
        raise
    except Exception as error:
        log.exception("it failed", what=hold.what, id=hold.id)
        with contextlib.suppress(Lost, DBAPIError, OSError):
            await run_in_threadpool(hold.fail, error)
    finally:
        beating.cancel()


async def beat_forever(hold: Hold) -> None:
    last = time.monotonic()
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            await hold.beat()
        except Lost:
            hold.ended.set()
            return
        except DBAPIError as error:
            said = str(error).splitlines()[0]
            log.warning("it waits for the database", what=hold.what, id=hold.id, error=said)
            if time.monotonic() - last > SILENT.total_seconds():
                hold.silent = True
                hold.ended.set()
        else:
            last = time.monotonic()


@contextlib.asynccontextmanager
async def going_on(
    claim: Callable[[str], Hold | None], most: int, running: set[asyncio.Task[None]]
) -> AsyncIterator[None]:
    """Work on what `claim` takes up for this process, on so many at a time. Inside the gateway's own
    lifespan.
    """
    looking = asyncio.create_task(look_forever(claim, most, running))
    try:
        yield
    finally:
        tasks = [looking, *running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        running.clear()


async def look_forever(
    claim: Callable[[str], Hold | None], most: int, running: set[asyncio.Task[None]]
) -> None:
    while True:
        try:
            while len(running) < most and (hold := await run_in_threadpool(claim, process)):
                task = asyncio.create_task(work(hold))
                running.add(task)
                task.add_done_callback(running.discard)
        except DBAPIError as error:
            log.warning("work waits for the database", error=str(error).splitlines()[0])
        await asyncio.sleep(LOOK_SECONDS)
