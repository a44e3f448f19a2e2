"""What works on evaluations: beside the requests of each web process, one task per evaluation
(`gateway.work`). Only what has no answer yet is asked.
"""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.orm import joinedload
from starlette.concurrency import run_in_threadpool

from app.datasets.tables import DatasetVersion
from app.errors import Conflict, DomainError
from app.evaluations import answers, ending, engines, holding, outside, reading
from app.evaluations.asking import RowAsking
from app.evaluations.judging import work as judging
from app.evaluations.perplexity import asking as perplexity
from app.evaluations.schemas import Settings
from app.evaluations.scorers.schemas import Options, Scorer, look_at_answers
from app.evaluations.tables import Candidate, Evaluation
from app.gateway import work
from app.gateway.work import Lost
from app.queue import transaction

MOST = 4  # evaluations that this process works on at a time
STORED = 200  # answers computed elsewhere, in one transaction

running: set[asyncio.Task[None]] = set()
adapter: TypeAdapter[Any] = TypeAdapter(list[Scorer])


def lifespan() -> AbstractAsyncContextManager[None]:
    """Work on evaluations as long as the process lives."""
    return work.going_on(claim, MOST, running)


def claim(process: str) -> "Hold | None":
    evaluation = holding.claim(process)
    return Hold(evaluation) if evaluation else None


@dataclass
class Hold(work.Hold):
    """An evaluation that this process works on."""

    what = "evaluation"
    evaluation: Evaluation
    settings: Settings = field(init=False)
    scorers: list[Options] = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.evaluation.id
        self.settings = Settings.model_validate(self.evaluation.settings)
        self.scorers = adapter.validate_python(self.evaluation.scorers)

    async def carry(self) -> None:
        """From whatever it has got done to the end. Raises Lost."""
        evaluation = self.evaluation
        await self.beat()
        if not self.ended.is_set():
            version = await run_in_threadpool(version_of, evaluation)
            await run_in_threadpool(
                reading.prepare, evaluation, version, self.settings, self.scorers
            )
            for one in await run_in_threadpool(holding.candidates, evaluation.id):
                if one.state not in ("done", "failed") and not self.ended.is_set():
                    await answer(self, one, version)
            await judging.judge(self, version)
        if self.silent:
            raise Lost(evaluation.id)
        await run_in_threadpool(ending.end, evaluation)

    async def beat(self) -> None:
        """It ends as well when it is stopped."""
        one = self.evaluation
        seen, self.caller = await run_in_threadpool(holding.beat, one.id, one.fence, self.waits)
        if seen.state != "running":
            self.ended.set()

    def let_go(self) -> None:
        holding.let_go(self.evaluation.id, self.evaluation.fence)

    def fail(self, error: Exception) -> None:
        fault = Conflict(work.FAULT, code="internal_error", id=self.evaluation.id)
        ending.end(self.evaluation, error=error if isinstance(error, DomainError) else fault)


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
            async with asyncio.timeout(work.LOOK_SECONDS):
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
