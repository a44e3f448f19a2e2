"""Clients that vanish, and the engine's own count, with the real engine."""

import asyncio
import re
import time
from typing import Any

import aiohttp
import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from app import embedded
from app.gateway import spool
from tests.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HELLO = [{"role": "user", "content": "你好"}]
CLIENTS = 200


class Seen:
    """The engine's counters and the ledger of the stack."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack = stack
        place = embedded.place(stack.home)
        url = place.database_url.replace("postgresql+psycopg", "postgresql")
        self.db = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        found = self.db.execute(
            "SELECT r.address, r.deployment_id FROM replicas r JOIN deployments d"
            " ON d.id = r.deployment_id WHERE d.name = %s AND r.state = 'ready'",
            [name],
        ).fetchone()
        assert found
        self.address, self.deployment = found["address"], found["deployment_id"]

    def engine(self, counter: str) -> int:
        text = httpx.get(f"{self.address}/metrics", timeout=30).text
        found = re.findall(rf"^vllm:{counter}{{[^}}]*}} ([\d.e+]+)$", text, re.MULTILINE)
        return round(sum(map(float, found)))

    def spooled(self) -> list[Any]:
        return spool.read((self.stack.home / "spool").glob("usage-*.jsonl"))

    def rows(self, since: str) -> list[dict[str, Any]]:
        """Of requests after the one with this id, once the spool is empty."""
        end = time.monotonic() + 30
        while self.spooled():
            assert time.monotonic() < end
            time.sleep(0.2)
        return self.db.execute(
            "SELECT * FROM usage WHERE owner_id = %s AND at > %s::timestamptz",
            [self.deployment, since],
        ).fetchall()

    def now(self) -> str:
        found = self.db.execute("SELECT now()::text AS at").fetchone()
        assert found
        return str(found["at"])


@pytest.fixture
def seen(stack: Stack, served: str):
    made = Seen(stack, served)
    yield made
    made.db.close()


def test_two_hundred_clients_that_vanish_leave_nothing_running_and_nothing_open(
    stack: Stack, served: str, seen: Seen
) -> None:
    since = seen.now()
    body = {
        "model": served,
        "messages": HELLO,
        "max_tokens": 1900,
        "ignore_eos": True,
        "stream": True,
    }

    async def vanish(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{stack.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            await answer.content.readany()
            assert answer.connection
            assert answer.connection.transport
            answer.connection.transport.abort()

    async def all_of_them() -> None:
        headers = {"authorization": f"Bearer {stack.api_key}"}
        async with aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            await asyncio.gather(*(vanish(session) for _ in range(CLIENTS)))

    asyncio.run(all_of_them())
    end = time.monotonic() + 20
    while seen.engine("num_requests_running") or seen.engine("num_requests_waiting"):
        assert time.monotonic() < end
        time.sleep(0.2)
    rows = seen.rows(since)
    assert len(rows) == CLIENTS
    assert {(row["status"], row["completed"]) for row in rows} == {(499, False)}
    assert all(row["prompt_tokens"] > 0 for row in rows)


def test_usage_sums_are_the_engines_own(stack: Stack, served: str, seen: Seen) -> None:
    since = seen.now()
    names = ("prompt_tokens_total", "generation_tokens_total")
    before = [seen.engine(name) for name in names]
    with stack.api() as api:
        for number in range(12):
            body: dict[str, Any] = {
                "model": served,
                "messages": [{"role": "user", "content": "今天天气" * (number + 1)}],
                "max_tokens": 5 + number,
                "stream": number % 2 == 0,
            }
            answer = api.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert '"usage":{' not in answer.text or not body["stream"]
        assert api.post("/v1/completions", json={"model": served, "prompt": "今天"}).is_success
    rows = seen.rows(since)
    assert len(rows) == 13
    assert all(row["completed"] for row in rows)
    used = [sum(row[name] for row in rows) for name in ("prompt_tokens", "completion_tokens")]
    assert used == [seen.engine(name) - was for name, was in zip(names, before, strict=True)]


def test_several_answers_to_one_prompt_count_it_once(stack: Stack, served: str, seen: Seen) -> None:
    """As OpenAI has it. The engine's own counter has the prompt once for each answer."""
    since, before = seen.now(), seen.engine("generation_tokens_total")
    body = {"model": served, "messages": HELLO, "max_tokens": 6, "n": 3}
    with stack.api() as api:
        alone = api.post("/v1/chat/completions", json=body | {"n": 1}).json()["usage"]
        for stream in (False, True):
            api.post("/v1/chat/completions", json=body | {"stream": stream}).raise_for_status()
    rows = seen.rows(since)
    assert {row["prompt_tokens"] for row in rows} == {alone["prompt_tokens"]}
    made = sum(row["completion_tokens"] for row in rows)
    assert made == seen.engine("generation_tokens_total") - before
