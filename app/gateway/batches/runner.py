"""What works on batches: beside the requests of each web process, one task per batch (`gateway.work`)."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from app.errors import N_, NotFound
from app.gateway import work
from app.gateway.batches import ending, holding
from app.gateway.batches.asking import BatchAsking
from app.gateway.batches.lines import Check, problem, raw
from app.gateway.batches.tables import Batch
from app.gateway.files import service as files
from app.gateway.work import Lost
from app.queue import transaction

MOST = 8  # batches that this process works on at a time
CHUNK = 200  # lines that are checked at a time
NO_FILE = N_("The input file is no longer there.")

running: set[asyncio.Task[None]] = set()


def lifespan() -> AbstractAsyncContextManager[None]:
    """Work on batches as long as the process lives."""
    return work.going_on(claim, MOST, running)


def claim(process: str) -> "Hold | None":
    batch = holding.claim(process)
    return Hold(batch) if batch else None


@dataclass
class Hold(work.Hold):
    """A batch that this process works on."""

    what = "batch"
    batch: Batch

    def __post_init__(self) -> None:
        self.id = self.batch.id

    async def carry(self) -> None:
        """From whatever status it is in to the end. Raises Lost."""
        batch = self.batch
        try:
            path = await run_in_threadpool(input_path, batch)
        except NotFound:
            missing = problem("file_not_found", NO_FILE, param="input_file_id")
            await run_in_threadpool(ending.write, batch, [missing])
            return
        if batch.status == "validating" and not ending.late(batch):
            check = await checked(self, path)
            if check.errors:
                await run_in_threadpool(ending.write, batch, check.errors)
                return
            if not self.ended.is_set():
                batch = self.batch = await run_in_threadpool(
                    holding.begin, batch.id, batch.fence, check.model, check.total
                )
        await self.beat()
        if batch.status == "in_progress" and not self.ended.is_set():
            asking = BatchAsking(self, path, await run_in_threadpool(holding.done, batch.id))
            await asking.all()
            if asking.refusal:
                await run_in_threadpool(ending.write, batch, [asking.refusal])
                return
        if self.silent:
            raise Lost(batch.id)
        batch = await run_in_threadpool(holding.finalize, batch.id, batch.fence)
        await run_in_threadpool(ending.write, batch)

    async def beat(self) -> None:
        """It ends as well when it is cancelled, or late."""
        batch = self.batch
        seen, self.caller = await run_in_threadpool(holding.beat, batch.id, batch.fence, self.waits)
        if seen.status not in ("validating", "in_progress") or ending.late(seen):
            self.ended.set()

    def let_go(self) -> None:
        holding.let_go(self.batch.id, self.batch.fence)

    def fail(self, error: Exception) -> None:  # noqa: ARG002
        ending.write(self.batch, [problem("internal_error", work.FAULT, id=self.batch.id)])


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
