"""Answers of a real engine, as they come to the page."""

import json
import time

import httpx
import pytest

from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def api(stack: Stack, served: str):
    with stack.api() as client:
        yield client


def ask(api: httpx.Client, content: str, *models: str) -> tuple[str, list[dict]]:
    columns = [{"lane": lane, "model": model} for lane, model in enumerate(models)]
    asked = api.post("/api/v1/conversations", json={"content": content, "columns": columns})
    assert asked.status_code == 201, asked.text
    return f"/api/v1/conversations/{asked.json()['conversation']}", asked.json()["asked"]


def test_a_streamed_answer_is_the_stored_one(api, served):
    address, asked = ask(api, "你好", served)
    body = {"question": asked[0]["question"], "model": served, "settings": {"max_tokens": 12}}
    names, text = [], ""
    with api.stream("POST", f"{address}/answers", json=body) as answer:
        name = "message"
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
                names.append(name)
            elif line.startswith("data: {") and name != "message":
                last, name = json.loads(line.removeprefix("data: ")), "message"
            elif line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                text += (choices[0]["delta"].get("content") or "") if choices else ""
    assert names[0] == "answer"
    assert names[-1] == "done"
    assert 0 < last["completion_tokens"] <= 12
    assert last["prompt_tokens"] > 0
    assert last["first_token_ms"] > 0
    stored = api.get(f"{address}/messages").json()["data"][1]
    assert (stored["content"], stored["state"], stored["model"]) == (text, "done", served)
    assert stored["usage"]["completion_tokens"] == last["completion_tokens"]


def test_what_was_said_before_a_stop_is_kept_and_can_be_built_on(api, served):
    address, asked = ask(api, "讲一个很长的故事", served)
    # the prompt has the stop token: the answer finds no end
    wild = {"temperature": 2.0, "repetition_penalty": 2.0, "max_tokens": 1000, "seed": 1}
    body = {"question": asked[0]["question"], "model": served, "settings": wild}
    with api.stream("POST", f"{address}/answers", json=body) as answer:
        for at, _ in enumerate(answer.iter_lines()):
            if at > 30:
                break
    conversation = address.rsplit("/", 1)[1]
    columns = [{"lane": 0, "model": served}]
    more = {"conversation": conversation, "content": "继续", "columns": columns}
    following = api.post("/api/v1/conversations", json=more).json()["asked"][0]["question"]
    body = {"question": following, "model": served, "settings": {"max_tokens": 4}}
    assert "event: done" in api.post(f"{address}/answers", json=body).text
    end = time.monotonic() + 10
    while (data := api.get(f"{address}/messages").json()["data"])[1]["state"] == "streaming":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert data[1]["state"] == "stopped"
    assert data[1]["content"]
    assert [one["role"] for one in data] == ["user", "assistant", "user", "assistant"]


def test_an_engines_refusal_is_said(api, served):
    address, asked = ask(api, "x " * 5000, served)
    body = {"question": asked[0]["question"], "model": served}
    said = api.post(f"{address}/answers", json=body).text
    assert "event: failed" in said
    stored = api.get(f"{address}/messages").json()["data"][1]
    assert stored["state"] == "failed"
    assert stored["error"]
