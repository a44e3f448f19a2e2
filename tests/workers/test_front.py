"""The front of the transformers engine, before a server that the test writes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from workers.engines.front import CHAT, REFUSED, TEXT, Front

USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
MESSAGES = [{"role": "user", "content": "hello"}]


class Server:
    """Answers with `status` and `parts`; remembers what it was asked."""

    def __init__(self, *parts: bytes, status: int = 200, kind: bytes = b"application/json") -> None:
        self.parts, self.status, self.kind = parts, status, kind
        self.asked: dict[str, Any] = {}
        self.cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            self.asked = json.loads((await receive())["body"])
        if not self.parts:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        headers = [(b"content-type", self.kind)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def front(server: Server, **more: Any) -> Front:
    values: dict[str, Any] = {
        "name": "mood", "model": "/store/m", "secret": "s", "max_model_len": 64, "chats": True,
        "remember": lambda body: None,
    }  # fmt: skip
    return Front(server, **values | more)


def ask(one: Front, path: str = CHAT, key: str = "s", **body: Any) -> httpx.Response:
    first = {"messages": MESSAGES} if path == CHAT else {"prompt": "1"}

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(one)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            headers = {"authorization": f"Bearer {key}"}
            return await client.post(path, json=first | body, headers=headers)

    return asyncio.run(go())


def get(one: Front, path: str, key: str = "s") -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(one)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.get(path, headers={"authorization": f"Bearer {key}"})

    return asyncio.run(go())


def whole(**more: Any) -> Server:
    return Server(json.dumps({"model": "/store/m@main", "usage": USAGE} | more).encode())


def chunk(**more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": "你"}} | more.pop("choice", {})
    return (
        b"data: " + json.dumps({"model": "m@main", "choices": [choice]} | more).encode() + b"\n\n"
    )


def streaming(*parts: bytes) -> Server:
    return Server(*parts, kind=b"text/event-stream; charset=utf-8")


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_the_whole_answer_has_our_name() -> None:
    server = whole()
    one = front(server)
    answer = ask(one, model="mood", max_tokens=3, user="me", seed=1, unheard_of={"a": 1})
    assert answer.json() == {"model": "mood", "usage": USAGE}
    assert server.asked == {"model": "/store/m", "messages": MESSAGES, "max_tokens": 3}
    assert "danlu:generation_tokens_total 2\n" in get(one, "/metrics").text
    assert f"danlu:prompt_tokens_total {USAGE['prompt_tokens']}\n" in get(one, "/metrics").text
    assert "danlu:num_requests_running 0\n" in get(one, "/metrics").text


def test_a_stream_ends_as_openai_clients_expect() -> None:
    last = chunk(choice={"delta": {}, "finish_reason": "stop"}, usage=USAGE)
    for wanted in (True, False):
        both = chunk() + last
        server = streaming(chunk(), both[:30], both[30:])
        options = {"include_usage": True} if wanted else None
        found = events(ask(front(server), stream=True, stream_options=options))
        assert found.pop() == "[DONE]"
        if wanted:
            assert found[-1]["choices"] == []
            assert found.pop()["usage"] == USAGE
        assert all("usage" not in event and event["model"] == "mood" for event in found)
        assert [event["choices"][0]["finish_reason"] for event in found] == [None, None, "stop"]
        assert "stream_options" not in server.asked


def test_an_error_in_a_stream_is_told() -> None:
    for text in (b'data: {"error": "CB worker died"}\n\n', b'data: {"error": "a "quote""}\n\n'):
        found = events(ask(front(streaming(chunk(), text)), stream=True))
        assert found[1]["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"detail": "maximum context length is 64 tokens"}', "maximum context length is 64"),
        (503, b'{"error": "CB worker is dead"}', "CB worker is dead"),
        (500, b"Internal Server Error", "The engine failed."),
    ],
)
def test_errors_have_openais_shape(status: int, body: bytes, said: str) -> None:
    answer = ask(front(Server(body, status=status)))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("best_of", 3),
        ("logprobs", True),
        ("logprobs", 5),
        ("stop", "x"),
        ("response_format", {"type": "json_object"}),
        ("response_format", "json"),
        ("tools", [{"type": "function"}]),
        ("temperature", 3),
        ("temperature", "warm"),
        ("top_p", 0),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("presence_penalty", 1.5),
    ],
)
def test_what_cannot_be_done_is_refused(field: str, value: Any) -> None:
    server = whole()
    answer = ask(front(server), **{field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert server.asked == {}


def test_what_changes_nothing_is_taken() -> None:
    harmless = REFUSED | {
        "n": 1,
        "response_format": {"type": "text"},
        "temperature": 0,
        "top_k": -1,
    }
    assert ask(front(whole()), **harmless).status_code == 200
    assert ask(front(whole()), **dict.fromkeys(harmless)).status_code == 200


def test_prompts() -> None:
    server = whole()
    assert ask(front(server), TEXT, prompt=["one"]).status_code == 200
    assert server.asked["prompt"] == "one"
    for wrong in (["a", "b"], [1, 2], "", None):
        assert ask(front(whole()), TEXT, prompt=wrong).json()["error"]["param"] == "prompt"


def test_nobody_passes_without_the_secret() -> None:
    one = front(whole())
    for key in ("", "S", "s ", "ss"):
        assert ask(one, key=key).status_code == 401
        assert get(one, "/v1/models", key).status_code == 401
        assert get(one, "/metrics", key).status_code == 401
    assert get(one, "/health", "").status_code == 200
    for path in ("/load_model", "/reset", "/v1/responses", "/docs", "/openapi.json"):
        assert ask(one, path).status_code == 404
        assert get(one, path).status_code == 404


def test_other_refusals() -> None:
    assert ask(front(whole()), model="other").status_code == 404
    assert "chat template" in ask(front(whole(), chats=False)).json()["error"]["message"]
    assert ask(front(whole(), chats=False), TEXT).status_code == 200
    listed = get(front(whole()), "/v1/models").json()["data"]
    assert [(one["id"], one["max_model_len"]) for one in listed] == [("mood", 64)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_bodies_that_are_none(body: bytes) -> None:
    async def go() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(front(whole())), base_url="http://engine"
        ) as client:
            headers = {"authorization": "Bearer s"}
            return await client.post(CHAT, content=body, headers=headers)

    assert asyncio.run(go()).status_code == 400


def test_a_client_that_leaves_cancels_the_work() -> None:
    server = Server()

    async def go() -> None:
        body = json.dumps({"messages": MESSAGES}).encode()
        messages: AsyncIterator[dict[str, Any]] = arriving(body)
        scope = {
            "type": "http", "method": "POST", "path": CHAT,
            "headers": [(b"authorization", b"Bearer s")],
        }  # fmt: skip
        await asyncio.wait_for(front(server)(scope, messages.__anext__, ignore), 5)

    asyncio.run(go())
    assert server.cancelled


async def arriving(body: bytes) -> AsyncIterator[dict[str, Any]]:
    yield {"type": "http.request", "body": body, "more_body": False}
    await asyncio.sleep(0.1)
    yield {"type": "http.disconnect"}


async def ignore(_message: Any) -> None:
    return None
