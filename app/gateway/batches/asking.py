"""Requests on their way that nobody waits for: as many at a time as the engines have room for.

`BatchAsking` asks the lines of a batch. What else asks many rows has a class of its own beside it.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.config import settings
from app.db import new_id
from app.errors import N_, DomainError, Unavailable
from app.failures import NO_DATABASE
from app.gateway import loads, routing, schemas, service
from app.gateway.batches import holding, lines
from app.gateway.batches.lines import Line, Outcome
from app.gateway.batches.tables import Batch

log = structlog.get_logger()

READ = 20  # lines that are read ahead
STORED = 200  # answers in one transaction
GATHER_SECONDS = 0.2  # in which answers come together for one
UNSTORED = 1000  # after which nothing more is asked until the database is back
ATTEMPTS = 3  # of a line on which engines break
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds in which nothing is asked, while nothing answers
LOOK_SECONDS = 0.5  # for room that others have left
LATER = (429, 503)  # not now: it is no fault of the line


class Held(Protocol):
    """What is known of the work by who renews the hold on it."""

    caller: service.Caller  # as whom is asked
    ended: asyncio.Event
    waits: dict[str, Any] | None


class HeldBatch(Held, Protocol):
    batch: Batch


class EngineError(DomainError):
    status = 502
    code = "engine_error"


class Asking:
    """All lines of a source, asked in any order. What is kept of them, and how, a class of its own
    says: `answered`, `unasked`, `store`.
    """

    def __init__(
        self, hold: Held, source: Iterator[Line], *, endpoint: str, name: str, fresh: bool
    ) -> None:
        """`endpoint` without its /v1/, `name` of the model. `fresh`: no line was answered before,
        so that a name that leads nowhere is a mistake.
        """
        self.hold = hold
        self.source = source
        self.endpoint = endpoint
        self.name = name
        self.ahead: deque[Line] = deque()
        self.more = True  # lines in the file
        self.attempts: Counter[int] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()
        self.finished: list[Any] = []  # what came of lines, and is not stored yet
        self.stored = asyncio.Event()
        self.trouble = False  # nothing answers: one line at a time tries, after a pause
        self.pause = FIRST_PAUSE
        self.quiet_until = 0.0
        self.fresh = fresh
        self.refusal: dict[str, Any] | None = None  # of the whole batch
        self.broken: BaseException | None = None

    async def all(self) -> None:
        """Returns when every line has an answer that is stored, or the hold has ended. Raises Lost."""
        writing = asyncio.create_task(self.write_forever())
        try:
            while not (self.hold.ended.is_set() or self.refusal or self.broken or writing.done()):
                self.changed.clear()
                if await self.room() and (line := await self.next()):
                    self.start(line)
                elif not self.tasks and not self.ahead and not self.more:
                    break
                else:
                    await self.wait()
        except asyncio.CancelledError:
            self.hold.ended.set()
            raise
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await self.write()
        if self.broken:
            raise self.broken

    async def wait(self) -> None:
        """Until a line has ended, or others may have left room."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self.changed.wait()

    async def room(self) -> bool:
        """May one more line be asked now?"""
        if self.trouble:
            return not self.tasks and time.monotonic() >= self.quiet_until
        if len(self.finished) > UNSTORED:
            return False
        return len(self.tasks) < await self.allowed()

    async def allowed(self) -> int:
        """How many lines may be open: what others leave of the engines behind the name."""
        key = (self.hold.caller.workspace_id, self.name)
        try:
            found = await routing.find(key, routing.REMEMBER_SECONDS)
        except (DomainError, DBAPIError):
            return 1  # which tells what is wrong
        engines = {replica.id for route, _ in found for replica in route.replicas}
        busy = sum(loads.in_flight[one] + loads.elsewhere[one] for one in engines)
        others = max(0, busy - len(self.tasks))
        return max(1, settings.batch_concurrency * len(engines) - others)

    async def next(self) -> Line | None:
        if not self.ahead and self.more:
            read = await run_in_threadpool(list, itertools.islice(self.source, READ))
            self.ahead.extend(read)
            self.more = bool(read)
        return self.ahead.popleft() if self.ahead else None

    # -- one line ------------------------------------------------------------------------

    def start(self, line: Line) -> None:
        task = asyncio.create_task(self.ask(line))
        self.tasks.add(task)
        task.add_done_callback(self.over)

    def over(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.changed.set()
        if not task.cancelled() and (error := task.exception()):
            self.broken = error

    async def ask(self, line: Line) -> None:
        try:
            status, request_id, answer = await self.reply(line)
        except DomainError as error:
            self.refused(line, error)
            return
        except DBAPIError:
            self.later(line, Unavailable(NO_DATABASE))
            return
        except orjson.JSONDecodeError:  # an answer that is none
            self.refused(line, EngineError(N_("The engine's answer is not valid JSON.")))
            return
        self.trouble, self.pause, self.hold.waits = False, FIRST_PAUSE, None
        if status >= 500 and self.again(line):
            self.ahead.append(line)
            return
        self.finish(self.answered(line, status, request_id, said(answer)))

    async def reply(self, line: Line) -> tuple[int, str, bytes]:
        """The status, the request's id and the answer. Raises DomainError."""
        if line.body.get("stream"):
            raise schemas.refuse(N_("A request of a batch cannot be streamed."), "stream")
        body = schemas.check(self.endpoint, line.body)
        exchange = await service.whole(self.hold.caller, self.endpoint, body, never)
        return exchange.status, exchange.id, exchange.answer

    def again(self, line: Line) -> bool:
        """May it be tried once more, though engines break on it?"""
        self.attempts[line.number] += 1
        return self.attempts[line.number] < ATTEMPTS

    def refused(self, line: Line, error: DomainError) -> None:
        if error.status in LATER and (error.code != "engine_lost" or self.again(line)):
            self.later(line, error)
        elif self.fresh and error.code == "model_not_found":
            self.refusal = lines.problem(
                error.code, error.message, line=line.number, param="body.model", **error.params
            )
        else:
            self.finish(self.unasked(line, error))

    def later(self, line: Line, error: DomainError) -> None:
        """It goes back; after a pause, longer each time, one line tries again."""
        self.ahead.appendleft(line)
        self.hold.waits = {"message": error.message, "params": error.params}
        at = time.monotonic()
        if at >= self.quiet_until:
            told = getattr(error, "retry_after", 0)
            self.quiet_until = at + min(max(self.pause, told), LONGEST_PAUSE)
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        self.trouble = True

    # -- keeping what came ---------------------------------------------------------------

    def answered(self, line: Line, status: int, request_id: str, answer: Any) -> Any:
        """What is kept of an answer."""
        raise NotImplementedError

    def unasked(self, line: Line, error: DomainError) -> Any:
        """What is kept of a line that never became a request."""
        raise NotImplementedError

    def store(self, outcomes: list[Any]) -> None:
        """Keep them, in a thread. Raises Lost, DBAPIError."""
        raise NotImplementedError

    def finish(self, outcome: Any) -> None:
        self.fresh = False
        self.finished.append(outcome)
        self.stored.set()

    async def write_forever(self) -> None:
        while True:
            await self.stored.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self.stored.clear()
            await self.write()

    async def write(self) -> None:
        """Store what has finished, however long the database is away. Raises Lost."""
        while few := self.finished[:STORED]:
            try:
                await run_in_threadpool(self.store, few)
            except DBAPIError as error:
                if self.hold.ended.is_set():
                    raise
                log.warning("answers wait for the database", error=str(error).splitlines()[0])
                await asyncio.sleep(1)
            else:
                del self.finished[: len(few)]


class BatchAsking(Asking):
    """All lines of a batch that have no answer yet. One for each time that it is taken up."""

    def __init__(self, hold: HeldBatch, path: Path, done: set[int]) -> None:
        self.batch = hold.batch
        super().__init__(
            hold,
            lines.asked(path, done),
            endpoint=self.batch.endpoint.removeprefix("/v1/"),
            name=str(self.batch.model),
            fresh=not done,
        )

    def answered(self, line: Line, status: int, request_id: str, answer: Any) -> Outcome:
        return lines.answered(line, status, request_id, answer)

    def unasked(self, line: Line, error: DomainError) -> Outcome:
        return lines.refused(line, error, new_id("rq"))

    def store(self, outcomes: list[Any]) -> None:
        holding.store(self.batch.id, self.batch.fence, outcomes)


def said(answer: bytes) -> Any:
    """An engine's JSON; what is none becomes an error's message."""
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        message = answer[:1000].decode(errors="replace")
        return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


async def never() -> None:
    """Nobody leaves: the file waits."""
    await asyncio.Event().wait()
