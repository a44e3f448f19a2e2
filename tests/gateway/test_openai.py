"""`/v1` with the stock `openai` client, in front of a real engine."""

import http.client
import json
import socket
import threading
import time

import httpx
import openai
import pytest
from openai import OpenAI

from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)
HELLO = [{"role": "user", "content": "你好"}]


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0)


def test_models_are_listed_and_found(client: OpenAI, served: str) -> None:
    assert served in [model.id for model in client.models.list()]
    assert client.models.retrieve(served).id == served
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


def test_a_whole_answer_has_usage(client: OpenAI, served: str) -> None:
    answer = client.chat.completions.create(
        model=served, messages=HELLO, max_tokens=8, temperature=0
    )
    assert answer.model == served
    assert answer.choices[0].message.content
    assert answer.usage
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens > answer.usage.completion_tokens


def test_streamed_pieces_join_to_the_whole_answer(client: OpenAI, served: str) -> None:
    asked = {"model": served, "messages": HELLO, "max_tokens": 16, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert ends == [whole.choices[0].finish_reason]
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_is_streamed_to_who_asks_for_it(client: OpenAI, served: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=served,
            messages=HELLO,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens <= 4
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_text_completions(client: OpenAI, served: str) -> None:
    answer = client.completions.create(model=served, prompt="今天", max_tokens=5)
    assert answer.usage
    assert answer.usage.completion_tokens <= 5


def test_a_prompt_that_is_too_long_is_refused_in_the_readers_language(
    stack: Stack, served: str
) -> None:
    body = {"model": served, "messages": [{"role": "user", "content": "很长" * 20_000}]}
    headers = {"authorization": f"Bearer {stack.api_key}", "accept-language": "zh-CN"}
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "token" in error["message"]


@pytest.mark.parametrize("key", ["dk-wrong", "dk-' OR 1=1 --", "dk-" + "x" * 100_000, "dk-\u00e9"])
def test_a_wrong_key_is_refused(stack: Stack, key: str) -> None:
    headers = {b"authorization": b"Bearer " + key.encode()}
    answer = httpx.get(f"{stack.url}/v1/models", headers=headers)
    assert answer.status_code in (400, 401, 431)
    if answer.status_code == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_an_unknown_model_and_an_unknown_field(client: OpenAI, served: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=served, messages=HELLO, extra_body={"chat_template": "{{ 1 }}"}
        )
    assert caught.value.param == "chat_template"


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/tokenize", "/sleep", "/metrics", "/v1/../metrics"]
)
def test_no_other_path_reaches_an_engine(stack: Stack, served: str, path: str) -> None:
    headers = {"authorization": f"Bearer {stack.api_key}"}
    assert httpx.post(f"{stack.url}{path}", json={}, headers=headers).status_code in (404, 405)


def test_a_client_that_leaves_frees_the_engine_and_is_still_metered(
    stack: Stack, served: str
) -> None:
    """Many long answers are cut off; a short one is answered at once afterwards."""
    headers = {"authorization": f"Bearer {stack.api_key}"}
    body = {
        "model": served,
        "messages": HELLO,
        "max_tokens": 1900,
        "ignore_eos": True,
        "stream": True,
    }

    def leave() -> None:
        with httpx.stream(
            "POST", f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60
        ) as answer:
            next(answer.iter_lines())

    leavers = [threading.Thread(target=leave) for _ in range(16)]
    for thread in leavers:
        thread.start()
    for thread in leavers:
        thread.join()
    began = time.monotonic()
    short = body | {"max_tokens": 2, "stream": False, "ignore_eos": False}
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=short, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert time.monotonic() - began < 20


def test_an_offer_of_http2_keeps_its_body(stack: Stack) -> None:
    """As Java's client sends it; the next request on the same connection is read as well."""
    offer = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(stack.url).port)) as line:
        for name, extra in (("first", offer), ("second", ""), ("third", offer)):
            body = json.dumps({"model": name, "messages": HELLO, "user": "\r\nUpgrade: h2c\r\n"})
            line.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{extra}"
                f"Authorization: Bearer {stack.api_key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            answer = http.client.HTTPResponse(line)
            answer.begin()
            said = json.load(answer)
            assert answer.status == 404, said
            assert name in said["error"]["message"]
