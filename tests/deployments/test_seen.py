"""What one sees of a real engine: its figures over time, its log, its tokens."""

import json
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from app.models import vocabulary
from tests.models.parity import STARTER
from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)
ROW: dict[str, Any] = {
    "id": "r1",
    "messages": [
        {"role": "system", "content": "你是助手。"},
        {"role": "user", "content": "今天 the weather\n\n如何? "},
        {"role": "assistant", "content": "\n\n很好。 <b>fine</b>\n\n"},
        {"role": "user", "content": "为什么?"},
        {"role": "assistant", "content": "因为晴天"},
    ],
}


def id_of(stack: Stack, name: str) -> str:
    with stack.api() as api:
        found = api.get("/api/v1/deployments").json()["data"]
    return next(str(one["id"]) for one in found if one["name"] == name)


def engine_of(stack: Stack) -> tuple[str, dict[str, str]]:
    """The running engine's own address, and the header that opens it."""
    (said,) = (json.loads(path.read_text()) for path in stack.home.glob("runs/rep_*/engine.json"))
    return said["address"], {"authorization": f"Bearer {said['secret']}"}


def test_the_engine_is_read_every_few_seconds(stack: Stack, served: str) -> None:
    address = f"/api/v1/deployments/{id_of(stack, served)}/metrics"
    body = {"model": served, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}
    end = time.monotonic() + 60
    with stack.api() as api:
        while True:
            assert api.post("/v1/chat/completions", json=body).status_code == 200
            found = api.get(address, params={"range": "15m"}).json()
            if any(found["generated"]) and any(found["between_tokens"]["p95"]):
                break
            assert time.monotonic() < end, found
            time.sleep(2)
    assert any(found["requests"])
    assert sum(filter(None, found["errors"])) < sum(filter(None, found["requests"]))
    assert any(value and 0 < value < 60 for value in found["first_token"]["p50"])
    assert any(value is not None and 0 <= value <= 100 for value in found["cache"])
    assert {value for value in found["waiting"] if value is not None} == {0}
    (device,) = found["devices"].values()
    assert any(value is not None and 0 <= value <= 100 for value in device["use"])
    scraped = httpx.get(f"{stack.url}/metrics").text
    assert 'danlu_engine_generation_tokens_total{deployment="starter"' in scraped
    assert "danlu_sweep_duration_seconds" in scraped


def test_the_engine_log_is_there_and_followed(stack: Stack, served: str) -> None:
    page = f"/deployments/{id_of(stack, served)}/log"
    with stack.api() as api:
        shown = api.get(page).text
        assert "Starting to load model" in api.get(f"{page}.txt").text
        assert 'data-stream="' in shown
        events = []
        with api.stream("GET", f"{page}/stream") as answer:
            for line in answer.iter_lines():
                if line.startswith("data:") and events.append(json.loads(line[5:])) is None:
                    break
    assert events[0]["text"]


def test_the_engine_gets_the_tokens_of_training(stack: Stack, served: str) -> None:
    """The one check of the tokens with the engine itself; test_parity.py has all the others."""
    words = vocabulary.load(STARTER)
    marker = words.marker(datetime.now())
    (text,) = marker.texts(ROW)
    sample = marker.mark(text, marker.encode([text])[0])
    address, key = engine_of(stack)
    for (first, _), until in zip(sample.spans, (2, 4), strict=True):
        body = {"model": served, "messages": ROW["messages"][:until]}
        asked = httpx.post(f"{address}/tokenize", json=body, headers=key, timeout=30).json()
        assert asked["tokens"] == list(sample.ids[:first])
        body |= {"max_tokens": 64, "temperature": 0, "return_token_ids": True}
        said = httpx.post(
            f"{address}/v1/chat/completions", json=body, headers=key, timeout=60
        ).json()
        assert said["prompt_token_ids"] == list(sample.ids[:first])
        choice = said["choices"][0]
        if choice["finish_reason"] == "stop":  # what it wrote last is what carried loss
            assert choice["token_ids"][-1] in words.stops
