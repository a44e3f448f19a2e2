"""Datasets and evaluations for tests, and an engine that knows moods."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from app.accounts.auth import Principal
from app.datasets import work
from app.datasets.tables import DatasetVersion
from app.evaluations import holding, runner, service
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.states import OPEN
from app.evaluations.tables import Evaluation
from app.gateway import upstream
from app.gateway.requests.making import written
from app.queue import transaction
from tests.gateway.engines import Engine

GOOD, BAD = "正面", "负面"
SCORERS = [{"kind": "accuracy"}, {"kind": "f1"}, {"kind": "bleu"}]


def reviews(count: int, answers: list[str] | None = None) -> list[dict[str, Any]]:
    """Every other one is good."""
    return [
        {
            "messages": [
                {
                    "role": "user",
                    "content": f"第{number}条："
                    + ("很好" if number % 2 else "太差")
                    + "。" * (number % 70),
                },
                {"role": "assistant", "content": answers[number] if answers else mood(number)},
            ]
        }
        for number in range(count)
    ]


def mood(number: int) -> str:
    return GOOD if number % 2 else BAD


def published(who: Principal, rows: list[dict[str, Any]], name: str = "reviews") -> DatasetVersion:
    made = work.take(who, written(rows, name))
    return work.publish(who, made.dataset_id)


class Mood(Engine):
    """Answers by the prompt; `wrong` says of which rows it is not right."""

    def __init__(self, wrong: set[int] | None = None) -> None:
        super().__init__()
        self.wrong = wrong or set()
        self.said: list[int] = []

    async def whole(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        number = int(asked["messages"][-1]["content"].split("条")[0][1:])
        self.said.append(number)
        text = mood(number + (number in self.wrong))
        message = {"role": "assistant", "content": f"{text}。"}
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        return web.json_response(
            {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
        )


def create(who: Principal, version: DatasetVersion, *candidates: str, **fields: Any) -> Evaluation:
    """Candidates as `kind:target`."""
    body = {
        "dataset": version.id,
        "candidates": [
            dict(zip(("kind", "target"), one.split(":", 1), strict=True)) for one in candidates
        ],
        "scorers": SCORERS,
    }
    return service.create(who, EvaluationCreate.model_validate(body | fields))


@asynccontextmanager
async def working() -> AsyncIterator[None]:
    async with upstream.lifespan(), runner.lifespan():
        yield


def now_of(one: Evaluation) -> Evaluation:
    with transaction() as db:
        return db.get_one(Evaluation, one.id)


def candidates(one: Evaluation) -> list[Any]:
    return holding.candidates(one.id)


async def ended(one: Evaluation) -> Evaluation:
    """Once nothing goes on. Cutting Chinese takes seconds to begin with, on a busy machine many."""
    async with asyncio.timeout(90):
        while now_of(one).state in OPEN:  # noqa: ASYNC110 - it is a row
            await asyncio.sleep(0.05)
    return now_of(one)
