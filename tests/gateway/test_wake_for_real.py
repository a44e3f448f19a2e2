"""vLLM asleep, and a request that wakes it."""

import time
from datetime import datetime

import pytest

from tests.gateway.engines import HELLO
from tests.stack import Stack


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_request_is_answered_in_the_engines_own_start_time(stack: Stack, served: str) -> None:
    with stack.api() as api:
        listed = api.get("/api/v1/deployments").json()["data"]
        path = f"/deployments/{next(one['id'] for one in listed if one['name'] == served)}"
        api.post(f"/api/v1{path}/sleep").raise_for_status()
        stack.wait(path, until=("idle",), seconds=60)
        assert served in [model["id"] for model in api.get("/v1/models").json()["data"]]
        body = {"model": served, "messages": HELLO, "max_tokens": 1}
        began = time.monotonic()
        answer = api.post("/v1/chat/completions", json=body, timeout=150)
        took = time.monotonic() - began
    assert answer.status_code == 200, f"{answer.text}\n{stack.tail()}"
    (replica,) = stack.wait(path, until=("ready",), seconds=10)["replicas"]
    started, ready = (datetime.fromisoformat(replica[at]) for at in ("started_at", "ready_at"))
    own = (ready - started).total_seconds()
    print(f"answered in {took:.1f} s; the engine's own start took {own:.1f} s")  # noqa: T201
    assert took - own < 20, stack.tail()
