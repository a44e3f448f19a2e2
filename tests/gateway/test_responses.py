"""`/v1/responses`, and `/inference/api/{deployment}/v1`, with the stock client and a real engine."""

import openai
import pytest
from openai import OpenAI

from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)
HELLO = [{"role": "user", "content": "你好"}]


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0)


def test_a_response_whole_and_streamed(client: OpenAI, served: str) -> None:
    asked = {"model": served, "input": "你好", "max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.output_text
    assert whole.usage
    assert 0 < whole.usage.output_tokens <= 8
    events = list(client.responses.create(**asked, stream=True))
    assert [events[0].type, events[1].type] == ["response.created", "response.in_progress"]
    assert events[-1].type in ("response.completed", "response.incomplete")
    pieces = "".join(one.delta for one in events if one.type == "response.output_text.delta")
    assert pieces == events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_is_sent_whole(client: OpenAI, served: str) -> None:
    first = client.responses.create(model=served, input=HELLO, max_output_tokens=4)
    said = [*HELLO, *(one.model_dump() for one in first.output), *HELLO]
    assert client.responses.create(model=served, input=said, max_output_tokens=4).output_text
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=served, input="x", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_an_engine_that_writes_gives_no_embeddings(client: OpenAI, served: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=served, input="hello")
    assert (caught.value.code, caught.value.param) == ("endpoint_not_supported", "model")
    assert "runner=pooling" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nothing", input="hello")


def test_a_deployment_has_an_address_of_its_own(stack: Stack, served: str) -> None:
    with stack.api() as api:
        found = api.get("/api/v1/deployments").json()["data"]
    one = next(it for it in found if it["name"] == served)
    for told in (served, one["id"]):
        own = OpenAI(
            base_url=f"{stack.url}/inference/api/{told}/v1", api_key=stack.api_key, max_retries=0
        )
        assert [model.id for model in own.models.list()] == [served]
        for model in ("/mnt/models", served):  # the address decides
            answer = own.chat.completions.create(model=model, messages=HELLO, max_tokens=4)
            assert answer.model == served
    with stack.api() as api:
        base = f"/inference/api/{one['id']}/v1"
        answer = api.post(f"{base}/completions", json={"prompt": "你好", "max_tokens": 2})
        assert answer.json()["usage"]["completion_tokens"] == 2
        lines = api.post(
            f"{base}/chat/completions", json={"messages": HELLO, "max_tokens": 2, "stream": True}
        )
        assert lines.text.endswith("data: [DONE]\n\n")
        assert api.post(f"{base}/responses", json={"input": "你好"}).status_code == 200
        missing = api.post("/inference/api/dep_unknown/v1/chat/completions", json={})
        assert (missing.status_code, missing.json()["error"]["type"]) == (
            404, "invalid_request_error",
        )  # fmt: skip


# -- what vLLM checks of itself, through the gateway -------------------------------------


def test_stop_seed_and_several_answers(client: OpenAI, served: str) -> None:
    asked = {"model": served, "messages": HELLO, "max_tokens": 12}
    whole = client.chat.completions.create(**asked, temperature=0).choices[0].message.content
    assert whole
    stop = whole[2]
    cut = client.chat.completions.create(**asked, temperature=0, stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    drawn = [
        client.chat.completions.create(**asked, seed=5, temperature=1).choices[0].message.content
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    several = client.chat.completions.create(**asked, n=3, temperature=1)
    assert sorted(one.index for one in several.choices) == [0, 1, 2]


def test_roles_ends_and_logprobs_of_a_stream(client: OpenAI, served: str) -> None:
    asked = {"model": served, "messages": HELLO, "max_tokens": 6, "temperature": 0}
    chunks = list(
        client.chat.completions.create(**asked, stream=True, logprobs=True, top_logprobs=2)
    )
    deltas = [one.choices[0] for one in chunks if one.choices]
    assert [one.delta.role for one in deltas if one.delta.role] == ["assistant"]
    assert deltas[0].delta.role == "assistant"
    assert [one.finish_reason for one in deltas if one.finish_reason] == ["length"]
    tokens = [token for one in deltas if one.logprobs for token in one.logprobs.content or ()]
    assert len(tokens) == 6
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in tokens)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked, stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"
