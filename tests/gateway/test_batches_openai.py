"""Batches with the stock `openai` client."""

import json
import time
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.gateway.batch_files import CHAT, jsonl, line
from tests.stack import Stack


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0)


def create(client: OpenAI, content: bytes, **more: Any) -> Batch:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    asked = {"endpoint": CHAT, "completion_window": "24h"} | more
    return client.batches.create(input_file_id=file.id, **asked)


def wait(client: OpenAI, batch: Batch, *until: str, seconds: float = 30) -> Batch:
    end = time.monotonic() + seconds
    while (batch := client.batches.retrieve(batch.id)).status not in until:
        assert time.monotonic() < end, batch
        time.sleep(0.2)
    return batch


def test_a_batch_with_wrong_lines_fails_and_tells_them(client: OpenAI) -> None:
    made = create(
        client,
        jsonl([line(1), line(1), line(2) | {"url": "/v1/completions"}]),
        metadata={"of": "tests"},
    )
    assert made.id.startswith("batch_")
    assert (made.object, made.status, made.completion_window) == ("batch", "validating", "24h")
    assert made.expires_at == made.created_at + 24 * 3600
    assert (made.metadata, made.output_file_id) == ({"of": "tests"}, None)
    failed = wait(client, made, "failed")
    assert failed.failed_at
    assert failed.errors
    assert failed.errors.data
    told = [(one.line, one.code, one.param) for one in failed.errors.data]
    assert told == [(2, "duplicate_custom_id", "custom_id"), (3, "url_mismatch", "url")]
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.cancel(made.id)
    assert "Cannot cancel a batch with status 'failed'." in caught.value.message


def test_pages_follow_a_cursor(client: OpenAI) -> None:
    made = [create(client, jsonl([line(n, "nothing")])).id for n in range(3)]
    newest = [one.id for one in client.batches.list(limit=2)]
    assert newest[:3] == made[::-1]  # the client asks for the next page by itself
    first = client.batches.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)
    assert client.batches.list(after=made[1], limit=1).data[0].id == made[0]
    failed = wait(client, client.batches.retrieve(made[0]), "failed")
    assert failed.errors
    assert failed.errors.data
    assert failed.errors.data[0].code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_nothing")
    with pytest.raises(openai.NotFoundError):
        client.batches.list(after="batch_nothing")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"x" * 65: "y"}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after"),
    ],
)
def test_what_cannot_be_is_refused(client: OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, jsonl([line(1)]), **more)
    assert param in str(caught.value.param)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_is_answered_by_vllm(client: OpenAI, served: str) -> None:
    asked = [line(n, served, max_tokens=4, temperature=0) for n in range(40)]
    asked[7]["body"]["max_tokens"] = 10**6
    made = create(
        client,
        jsonl(asked),
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    done = wait(client, made, "completed", seconds=120)
    assert done.model == served
    assert done.request_counts
    assert (done.request_counts.total, done.request_counts.completed) == (40, 39)
    assert done.request_counts.failed == 1
    assert done.output_file_id
    assert done.error_file_id
    answers = [
        json.loads(one) for one in client.files.content(done.output_file_id).text.split("\n") if one
    ]
    assert [one["custom_id"] for one in answers] == [f"c{n}" for n in range(40) if n != 7]
    alone = client.chat.completions.create(**asked[0]["body"])
    said = answers[0]["response"]["body"]["choices"][0]["message"]["content"]
    assert said == alone.choices[0].message.content
    (wrong,) = [
        json.loads(one) for one in client.files.content(done.error_file_id).text.split("\n") if one
    ]
    assert wrong["custom_id"] == "c7"
    assert wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["code"] == "context_length_exceeded"
    tokens = [one["response"]["body"]["usage"]["total_tokens"] for one in answers]
    assert done.usage
    assert done.usage.total_tokens == sum(tokens)
    kept = client.files.retrieve(done.output_file_id)
    assert kept.purpose == "batch_output"
    assert kept.expires_at == kept.created_at + 3600
