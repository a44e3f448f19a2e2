"""What works on evaluations: beside the requests of each web process, one task per evaluation.

As with batches, an evaluation is held by a row that has to be renewed: of a process that was killed
another takes it up, and asks only what has no answer yet. No thread, no Celery slot and no database
session is held while engines work.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import joinedload
from starlette.concurrency import run_in_threadpool

from app.datasets.tables import DatasetVersion
from app.db import new_id
from app.errors import N_, Conflict, DomainError
from app.evaluations import answers, ending, engines, holding, outside, reading
from app.evaluations.asking import RowAsking
from app.evaluations.judging import work as judging
from app.evaluations.perplexity import asking as perplexity
from app.evaluations.schemas import Settings
from app.evaluations.scorers.schemas import Options, Scorer, look_at_answers
from app.evaluations.tables import Candidate, Evaluation
from app.gateway.batches.holding import SILENT, Lost
from app.gateway.service import Caller
from app.queue import transaction

log = structlog.get_logger()

LOOK_SECONDS = 1.0
BEAT_SECONDS = 1.0
MOST = 4  # evaluations that this process works on at a time
STORED = 200  # answers computed elsewhere, in one transaction
FAULT = N_("This is our fault, not yours. Try again; if it stays, report the id %(id)s.")

process = f"{socket.gethostname()}:{os.getpid()}:{new_id('ev')}"
running: set[asyncio.Task[None]] = set()
adapter: TypeAdapter[Any] = TypeAdapter(list[Scorer])


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """Work on evaluations as long as the process lives. Inside the gateway's own lifespan."""
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
                found := await run_in_threadpool(holding.claim, process)
            ):
                task = asyncio.create_task(work(found))
                running.add(task)
                task.add_done_callback(running.discard)
        except DBAPIError as error:
            log.warning("evaluations wait for the database", error=str(error).splitlines()[0])
        await asyncio.sleep(LOOK_SECONDS)


@dataclass
class Hold:
    """An evaluation that this process works on, for as long as it may."""

    evaluation: Evaluation
    settings: Settings = field(init=False)
    scorers: list[Options] = field(init=False)
    caller: Caller = field(init=False)  # as whom models are asked
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # stopped, or another's
    silent: bool = False  # the database was away for so long that others may have taken it up
    waits: dict[str, Any] | None = None  # why nothing goes on

    def __post_init__(self) -> None:
        self.settings = Settings.model_validate(self.evaluation.settings)
        self.scorers = adapter.validate_python(self.evaluation.scorers)


async def work(evaluation: Evaluation) -> None:
    """Carry it to its end, unless this process ends or somebody else does it."""
    hold = Hold(evaluation)
    beating = asyncio.create_task(beat_forever(hold))
    try:
        await carry(hold)
    except Lost:
        log.info("somebody else works on an evaluation", evaluation=evaluation.id)
    except (DBAPIError, OSError) as error:  # after some seconds of silence somebody tries again
        log.warning("an evaluation waits", id=evaluation.id, error=str(error).splitlines()[0])
    except asyncio.CancelledError:
        with contextlib.suppress(Lost, DBAPIError):
            await asyncio.to_thread(holding.let_go, evaluation.id, evaluation.fence)
        raise
    except Exception as error:
        log.exception("an evaluation failed", evaluation=evaluation.id)
        fault = Conflict(FAULT, code="internal_error", id=evaluation.id)
        told = error if isinstance(error, DomainError) else fault
        with contextlib.suppress(Lost, DBAPIError, OSError):
            await run_in_threadpool(ending.end, evaluation, error=told)
    finally:
        beating.cancel()


async def carry(hold: Hold) -> None:
    """From whatever it has got done to the end. Raises Lost."""
    evaluation = hold.evaluation
    await beat(hold)
    if not hold.ended.is_set():
        version = await run_in_threadpool(version_of, evaluation)
        await run_in_threadpool(reading.prepare, evaluation, version, hold.settings, hold.scorers)
        for one in await run_in_threadpool(holding.candidates, evaluation.id):
            if one.state not in ("done", "failed") and not hold.ended.is_set():
                await answer(hold, one, version)
        await judging.judge(hold, version)
    if hold.silent:
        raise Lost(evaluation.id)
    await run_in_threadpool(ending.end, evaluation)


def version_of(evaluation: Evaluation) -> DatasetVersion:
    with transaction() as db:
        return db.get_one(
            DatasetVersion,
            evaluation.dataset_version_id,
            options=[joinedload(DatasetVersion.dataset)],
        )


async def answer(hold: Hold, one: Candidate, version: DatasetVersion) -> None:
    """All that this candidate has not answered yet. One that cannot answer does not stop others."""
    try:
        if one.kind == "answers":
            await run_in_threadpool(holding.move, one.id, "asking")
            await take(hold, one, version)
        elif one.kind == "endpoint":
            await run_in_threadpool(holding.move, one.id, "asking")
            await ask_outside(hold, one, version)
        elif name := await engine(hold, one):
            await run_in_threadpool(holding.move, one.id, "asking")
            if look_at_answers(hold.scorers):
                await ask(hold, one, name, version)
            await perplexity.measure(hold, one, name, version)
    except DomainError as error:
        await run_in_threadpool(holding.move, one.id, "failed", error)
    else:
        if not hold.ended.is_set():
            await run_in_threadpool(holding.move, one.id, "done")
    if not hold.ended.is_set():
        await run_in_threadpool(engines.release, one.id)


async def engine(hold: Hold, one: Candidate) -> str:
    """The name to ask, once there is somebody behind it; empty if the evaluation is stopped first."""
    while not hold.ended.is_set():
        found = await run_in_threadpool(engines.ready, hold.evaluation.id, one.id)
        hold.waits = found.waits
        if found.name:
            return found.name
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await hold.ended.wait()
    return ""


async def ask(hold: Hold, one: Candidate, name: str, version: DatasetVersion) -> None:
    """Raises Lost, and Conflict if the name leads nowhere."""
    done = await run_in_threadpool(holding.done, one.id)
    await all_of(RowAsking(hold, one, name, reading.questions(version, hold.settings, done)))


async def ask_outside(hold: Hold, one: Candidate, version: DatasetVersion) -> None:
    """Raises Lost, NotFound if its secret is gone, and Conflict if the endpoint refuses."""
    key = await run_in_threadpool(outside.key_of, hold.evaluation, one)
    done = await run_in_threadpool(holding.done, one.id)
    questions = reading.questions(version, hold.settings, done)
    await all_of(outside.EndpointAsking(hold, one, questions, key))


async def all_of(asking: RowAsking) -> None:
    await asking.all()
    if told := asking.refusal:
        raise Conflict(told["message"], code=told["code"], **told["params"])


async def take(hold: Hold, one: Candidate, version: DatasetVersion) -> None:
    """Answers that were computed elsewhere."""
    done = await run_in_threadpool(holding.done, one.id)
    other = await run_in_threadpool(other_of, one)
    found = reading.answered(version, hold.settings, one.target, other, done)
    while not hold.ended.is_set():
        some = await run_in_threadpool(list, islice(found, STORED))
        if not some:
            break
        await run_in_threadpool(keep, hold, one, some)


def other_of(one: Candidate) -> DatasetVersion | None:
    if one.target in reading.FIELDS:
        return None
    with transaction() as db:
        return db.get_one(DatasetVersion, one.target)


def keep(hold: Hold, one: Candidate, some: list[tuple[answers.Outcome, str]]) -> None:
    for outcome, reference in some:
        answers.score(outcome, reference, hold.scorers)
    evaluation = hold.evaluation
    holding.store(evaluation.id, evaluation.fence, one.id, [outcome for outcome, _ in some])


async def beat(hold: Hold) -> None:
    """Keep hold of it, and see whether it is stopped or another's. Raises Lost."""
    one = hold.evaluation
    seen, hold.caller = await run_in_threadpool(holding.beat, one.id, one.fence, hold.waits)
    if seen.state != "running":
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
            log.warning("an evaluation waits for the database", error=str(error).splitlines()[0])
            if time.monotonic() - last > SILENT.total_seconds():
                hold.silent = True
                hold.ended.set()
        else:
            last = time.monotonic()
