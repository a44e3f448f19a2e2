"""What an engine says reaches the caller untouched: the same bytes as asked of vLLM directly."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiohttp import web
from sqlalchemy.orm import Session

from tests.factories import make_workspace
from tests.gateway.engines import Engine, deploy, running, streamed
from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)
HELLO = [{"role": "user", "content": "你好"}]
MOOD = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
RATE = {"type": "function", "function": {"name": "rate", "parameters": MOOD, "strict": True}}
NAMED = {"type": "function", "function": {"name": "rate"}}
# a model this small would write nothing but line breaks where JSON allows them
HELD = {"max_tokens": 200, "frequency_penalty": 2, "presence_penalty": 2}
FORM = {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD}}
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}
# what differs between two answers to the same question: when it was, and names that are drawn
DRAWN = re.compile(
    rb'("created(?:_at)?":|"(?:completed_at|arrival_time)":)[\d.]+'
    rb'|("(?:id|item_id|call_id)":)"(?:chatcmpl-tool|call|fc|rs|msg|resp)_?-?[0-9a-f-]{8,}"'
)

LAST = (".usage", ".system_fingerprint")  # what vLLM says in the chunk of the usage
TEXTS = (".content", ".text", ".delta", ".arguments", ".token")
COUNTS = ("sequence_number", ".logprob", ".bytes")  # of events; of a computation in other company


@dataclass
class Both:
    """The gateway and the engine behind it."""

    stack: Stack
    engine: httpx.Client
    name: str

    def ask(self, path: str, body: dict[str, Any]) -> tuple[bytes, bytes]:
        """The two answers, both 200."""
        asked = {"model": self.name, "temperature": 0, "seed": 1} | body
        with self.stack.api() as api:
            told = api.post(f"/v1/{path}", json=asked).raise_for_status()
        same = {"x-request-id": told.headers["x-request-id"]}
        said = self.engine.post(f"/v1/{path}", json=asked, headers=same).raise_for_status()
        assert (
            told.headers["content-type"].split(";")[0] == said.headers["content-type"].split(";")[0]
        )
        return told.content, said.content


@pytest.fixture(scope="module")
def both(stack: Stack, served: str) -> Both:
    with stack.api() as api:
        found = api.get("/api/v1/deployments").json()["data"]
    (replica,) = next(one for one in found if one["name"] == served)["replicas"]
    place = max(
        stack.home.glob(f"runs/{replica['id']}*/engine.json"), key=lambda it: it.stat().st_mtime
    )
    known = json.loads(place.read_text())
    headers = {"authorization": f"Bearer {known['secret']}"}
    return Both(stack, httpx.Client(base_url=known["address"], headers=headers, timeout=60), served)


def same(pair: tuple[bytes, bytes]) -> bytes:
    """Raises AssertionError unless both are the same; what was told.

    How many tokens an engine puts into one event depends on its day, so streams are joined.
    """
    told, said = (DRAWN.sub(rb"\1\2null", one) for one in pair)
    if b"data: " in told:
        assert joined(told) == joined(said)
    else:
        assert told == said
    return pair[0]


def joined(events: bytes) -> dict[str, Any]:
    """What a stream says: for each place in its events all texts of it as one, or its last value."""
    found: dict[str, Any] = {}

    def put(place: str, value: Any) -> None:
        if isinstance(value, dict):
            at = f"{place}[{value['index']}]" if "index" in value else place
            for name, inner in value.items():
                put(f"{at}.{name}", inner)
        elif isinstance(value, list):
            for inner in value:
                put(place, inner)
        elif place.endswith(TEXTS) and isinstance(value, str):
            found[place] = found.get(place, "") + value
        elif value is not None and not place.endswith(COUNTS):
            found[place] = value

    for line in events.split(b"\n\n"):
        name, _, data = line.rpartition(b"data: ")
        if data.startswith(b"{"):
            put(name.decode().strip(), json.loads(data))
    return found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": HELLO, "max_tokens": 6}),
        ("chat/completions", {"messages": HELLO, "max_tokens": 4, "logprobs": True, "top_logprobs": 3}),
        ("chat/completions", {"messages": HELLO, "response_format": FORM} | HELD),
        ("chat/completions", {"messages": HELLO, "tools": [RATE], "tool_choice": NAMED} | HELD),
        ("chat/completions", {"messages": HELLO, "structured_outputs": {"json": MOOD}} | HELD),
        ("chat/completions", {"messages": HELLO, "max_tokens": 4, "n": 2, "temperature": 0.8}),
        ("chat/completions", COUNTED | {"messages": HELLO, "max_tokens": 6}),
        ("chat/completions", COUNTED | {"messages": HELLO, "max_tokens": 4, "logprobs": True}),
        ("chat/completions", COUNTED | {"messages": HELLO, "response_format": FORM} | HELD),
        (
            "chat/completions",
            COUNTED | {"messages": HELLO, "tools": [RATE], "tool_choice": NAMED} | HELD,
        ),
        ("completions", {"prompt": "今天", "max_tokens": 4, "logprobs": 2}),
        ("completions", {"prompt": "今天", "max_tokens": 4, "echo": True}),
        ("completions", COUNTED | {"prompt": ["今天", "你好"], "max_tokens": 4}),
        ("responses", {"input": "你好", "max_output_tokens": 6, "metadata": {"a": "b"}}),
        ("responses", {"input": HELLO, "max_output_tokens": 6, "stream": True}),
    ],
)  # fmt: skip
def test_the_same_bytes(both: Both, path: str, body: dict[str, Any]) -> None:
    same(both.ask(path, body))


def test_json_and_tool_calls_are_what_was_asked_for(both: Both) -> None:
    """Not only the same: an answer held to a schema follows it, whole and streamed."""
    held = {"messages": HELLO, "response_format": FORM} | HELD
    told, _ = both.ask("chat/completions", held)
    content = json.loads(json.loads(told)["choices"][0]["message"]["content"])
    assert content["mood"] in ("good", "bad")
    tools = {"messages": HELLO, "tools": [RATE], "tool_choice": NAMED} | HELD
    told, _ = both.ask("chat/completions", tools)
    (call,) = json.loads(told)["choices"][0]["message"]["tool_calls"]
    assert set(json.loads(call["function"]["arguments"])) == {"mood", "sure"}
    told, _ = both.ask("chat/completions", tools | {"stream": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(told)]
    assert [delta["role"] for delta in deltas if delta.get("role")] == ["assistant"]
    pieces = [one for delta in deltas for one in delta.get("tool_calls") or ()]
    assert [one["function"]["name"] for one in pieces if one["function"].get("name")] == ["rate"]
    joined = "".join(one["function"].get("arguments") or "" for one in pieces)
    assert json.loads(joined) == json.loads(call["function"]["arguments"])


def test_without_usage_asked_for_only_its_chunk_is_missing(both: Both) -> None:
    body = {"messages": HELLO, "max_tokens": 4, "stream": True}
    told, said = both.ask("chat/completions", body)
    plain = [
        {place: value for place, value in joined(one).items() if not place.startswith(LAST)}
        for one in (DRAWN.sub(rb"\1\2null", told), DRAWN.sub(rb"\1\2null", said))
    ]
    assert plain[0] == plain[1]
    assert all(one.get("usage") is None for one in chunks(told))
    often = {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    told = same(both.ask("chat/completions", often | {"messages": HELLO, "max_tokens": 4}))
    assert all(one["usage"]["prompt_tokens"] > 0 for one in chunks(told))


def test_what_the_engine_refuses_is_told_in_its_own_words(both: Both) -> None:
    for wrong in (
        {"temperature": -1},
        {"top_p": 2},
        {"max_tokens": -1},
        {"logprobs": True, "top_logprobs": 99},
    ):
        asked = {"model": both.name, "messages": HELLO} | wrong
        with both.stack.api() as api:
            told = api.post("/v1/chat/completions", json=asked)
        said = both.engine.post("/v1/chat/completions", json=asked)
        assert (told.status_code, told.content) == (400, said.content)
        assert set(told.json()["error"]) >= {"message", "type", "param", "code"}


def chunks(events: bytes) -> list[Any]:
    return [
        json.loads(line.removeprefix(b"data: "))
        for line in events.split(b"\n\n")
        if line.startswith(b"data: {")
    ]


# -- the bytes of a stream, from an engine that writes them oddly ------------------------

ODD = [
    b'data: {"choices": [ {"index":0 ,"delta":{"role":"assistant","reasoning_content":"\\u60f3"}} ]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\":"}}]}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\"usage\\":{ \\n\\n"},"unheard":[1.0,1e-9,null]}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]  # fmt: skip


class Odd(Engine):
    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in ODD:
            await response.write(event)
            await asyncio.sleep(0.02)
        return response


def test_a_streams_bytes_are_untouched(db: Session) -> None:
    workspace = make_workspace(db)

    async def test() -> None:
        async with Odd() as engine:
            deploy(db, workspace, engine)
            events, _ = await streamed(workspace)
            assert b"".join(events) == b"".join(ODD)

    running(test)
