"""The gateway as processes of its own: what they serve, limits they share, what a kill leaves."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import select

from app import main
from app.config import ROOT, settings
from app.gateway import ledger, spool
from app.quotas.tables import Usage
from tests.factories import make_key, make_user, make_workspace
from tests.gateway.engines import HELLO, Engine, deploy, until
from tests.stack import free_port

OURS = ("/v1", "/dashscope", "/inference")


def test_it_serves_what_the_web_server_does_at_these_addresses():
    from app import edge

    def paths(routes) -> set[str]:
        return {f"{one.methods} {one.path}" for one in iter_route_contexts(routes)}

    wanted = {path for path in paths(main.app.routes) if path.split()[-1].startswith(OURS)}
    more = {path.split()[-1] for path in paths(edge.app.routes) - wanted}
    assert wanted <= paths(edge.app.routes)
    assert more == {"/healthz", "/readyz", "/metrics"}


@dataclass
class Gateway:
    process: subprocess.Popen[bytes]
    url: str


@pytest.fixture
def gateways(db) -> Iterator[list[Gateway]]:
    """Two of them over the tests' own servers and home."""
    made = []
    for _ in range(2):
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "app.edge"],
            cwd=ROOT,
            env=os.environ | {"DANLU_PORT": str(port)},
            stderr=subprocess.DEVNULL,
        )
        made.append(Gateway(process, f"http://127.0.0.1:{port}"))
    try:
        for gateway in made:
            wait_ready(gateway)
        yield made
    finally:
        for gateway in made:
            gateway.process.kill()
            gateway.process.wait()


def wait_ready(gateway: Gateway) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"{gateway.url}/readyz", timeout=5, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert gateway.process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_are_one_gateway_and_a_kill_loses_nothing(db, gateways):
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    key = make_key(db, workspace, user, parallel=1, total_tokens=10_000)
    free = make_key(db, workspace, user)
    here, there = gateways
    body = {"model": "mood", "messages": HELLO, "max_tokens": 100, "stream": True}

    async def test() -> None:
        async with Engine("hang-middle") as engine, httpx.AsyncClient(timeout=20) as client:
            deploy(db, workspace, engine)

            def ask(gateway: Gateway, secret: str):
                headers = {"authorization": f"Bearer {secret}"}
                url = f"{gateway.url}/v1/chat/completions"
                return client.stream("POST", url, json=body, headers=headers)

            async with ask(here, key) as answer:
                assert answer.status_code == 200
                assert answer.headers["x-danlu-deployment"] == "mood"
                pieces = answer.aiter_bytes()
                assert b"one " in await anext(pieces)
                async with ask(there, key) as refused:
                    error = (await refused.aread(), refused)[1].json()["error"]
                    assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
                    assert refused.headers["retry-after"] == "1"
                async with ask(there, free) as other:
                    assert other.status_code == 200
                await asyncio.sleep(1.5)  # it notes down how far the answer is
                here.process.kill()
                here.process.wait()
                with pytest.raises(httpx.TransportError):
                    async for _ in pieces:
                        pass
            await asyncio.sleep(0.1)

    asyncio.run(test())
    end = time.monotonic() + 20
    while not (row := db.scalar(select(Usage).where(Usage.status == 500))):
        ledger.flush()  # or the other gateway's: whichever is first
        db.rollback()
        assert time.monotonic() < end
        time.sleep(0.1)
    assert (row.completed, row.workspace_id, row.model) == (False, workspace.id, "mood")
    assert row.prompt_tokens > 0
    assert row.completion_tokens == 2
    assert not [one for one in spool.read(settings.spool.glob("*.jsonl")) if one.get("open")]


def test_it_ends_an_answer_before_it_stops(db, gateways):
    user = make_user(db)
    workspace = make_workspace(db, owner=user)
    key = make_key(db, workspace, user)
    gateway = gateways[0]
    body = {"model": "mood", "messages": HELLO, "stream": True}

    async def test() -> None:
        async with Engine() as engine, httpx.AsyncClient(timeout=20) as client:
            deploy(db, workspace, engine)
            engine.go_on.clear()
            headers = {"authorization": f"Bearer {key}"}
            url = f"{gateway.url}/v1/chat/completions"
            asking = asyncio.create_task(client.post(url, json=body, headers=headers))
            await until(lambda: engine.open == 1)
            gateway.process.terminate()
            await asyncio.sleep(0.3)
            engine.go_on.set()
            answer = await asking
            assert answer.text.endswith("data: [DONE]\n\n")

    asyncio.run(test())
    gateway.process.wait(20)
    ledger.flush()
    assert db.scalars(select(Usage.completed)).all() == [True]
