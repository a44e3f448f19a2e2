"""Batches for tests: their files, what works on them, and what they leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.datasets.files import room
from app.gateway.batches import runner, service
from app.gateway.batches.states import OPEN
from app.gateway.batches.tables import Batch
from app.gateway.files import service as files
from app.queue import transaction
from tests.gateway.engines import HELLO, Engine, until

CHAT = "/v1/chat/completions"


def line(number: int, model: str = "mood", **body: Any) -> dict[str, Any]:
    asked = {"model": model, "messages": HELLO} | body
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": asked}


def jsonl(lines: list[Any]) -> bytes:
    return b"".join((one if isinstance(one, bytes) else orjson.dumps(one)) + b"\n" for one in lines)


def start(db: Session, who: Principal, content: bytes, endpoint: str = CHAT) -> Batch:
    """A batch of a file that was just uploaded. Committed."""
    with room() as directory:
        path = directory / "x"
        path.write_bytes(content)
        file = files.add(who, path, file_name="in.jsonl", purpose="batch")
    made = service.create(db, who, service.Wanted(file.id, endpoint))
    db.commit()
    return made


def now_of(batch: Batch) -> Batch:
    with transaction() as db:
        return db.get_one(Batch, batch.id)


async def ended(batch: Batch) -> Batch:
    await until(lambda: now_of(batch).status not in OPEN)
    return now_of(batch)


@contextlib.asynccontextmanager
async def working() -> AsyncIterator[None]:
    async with runner.lifespan():
        yield


def left(batch: Batch, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file that it left."""
    if file_id is None:
        return []
    with transaction() as db:
        path = files.path(files.get(db, batch.workspace_id, file_id))
    return [orjson.loads(one) for one in path.read_bytes().splitlines()]


def ids(lines: list[dict[str, Any]]) -> list[str]:
    return [one["custom_id"] for one in lines]


class Stops(Engine):
    """Keeps waiting whoever asks after the first few."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    async def answer(self, request: Any) -> Any:
        if len(self.asked) >= self.after:
            self.go_on.clear()
        return await super().answer(request)


async def blocked(engine: Engine) -> None:
    async with asyncio.timeout(10):
        while not (engine.open and not engine.go_on.is_set()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
