"""What may be asked of an engine."""

from typing import Any

import pytest

from app.errors import Invalid
from app.gateway.schemas import check

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_a_plain_request_passes_without_what_an_engine_need_not_know() -> None:
    body = check("chat/completions", CHAT | {"user": "u-1", "temperature": 0.2})
    assert body == CHAT | {"temperature": 0.2}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"lora_path": "/etc"}, "lora_path"),
        ({"model": ""}, "model"),
        ({"model": ["m"]}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 2001}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"n": True}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": "all"}, "stream_options"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content",
        ),
    ],
)
def test_anything_else_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        check("chat/completions", CHAT | change)
    assert (caught.value.status, caught.value.field) == (400, param)


@pytest.mark.parametrize("body", [None, [], "hello", 1])
def test_the_body_must_be_an_object(body: Any) -> None:
    with pytest.raises(Invalid):
        check("completions", body)


def test_text_completions_take_a_prompt() -> None:
    assert check("completions", {"model": "m", "prompt": "hello"})["prompt"] == "hello"
    with pytest.raises(Invalid):
        check("completions", {"model": "m", "prompt": ""})


# -- embeddings and responses ------------------------------------------------------------


@pytest.mark.parametrize("given", ["hello", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
def test_embeddings_take_texts_and_tokens(given: Any) -> None:
    body = {"model": "m", "input": given, "encoding_format": "base64", "user": "u"}
    assert check("embeddings", body) == {"model": "m", "input": given, "encoding_format": "base64"}


@pytest.mark.parametrize(
    "given", [None, "", [], {}, 1, ["a", 1], [[1], "a"], [[1.5]], [None], ["a"] * 2049]
)
def test_embeddings_of_nothing_else(given: Any) -> None:
    with pytest.raises(Invalid) as caught:
        check("embeddings", {"model": "m", "input": given})
    assert caught.value.field == "input"


def test_responses_take_text_items_and_functions() -> None:
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "metadata": {"a": "b"},
        "user": "u",
    }
    assert check("responses", body | {"store": True, "background": False}) == body


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search_preview"}]}, "tools"),
        ({"tools": [{"type": "mcp", "server_url": "http://169.254.169.254"}]}, "tools"),
        ({"tools": "f"}, "tools"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content",
        ),
        ({"request_id": "x"}, "request_id"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
    ],
)
def test_responses_that_need_what_is_not_here(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        check("responses", {"model": "m", "input": "hi"} | change)
    assert (caught.value.status, caught.value.field) == (400, param)


def test_what_is_nested_too_deeply_or_too_large_is_refused() -> None:
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    with pytest.raises(Invalid):
        check("chat/completions", CHAT | {"metadata": deep})
    huge = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"enum": ["x" * 300_000]}},
    }
    with pytest.raises(Invalid) as caught:
        check("chat/completions", CHAT | {"response_format": huge})
    assert caught.value.field == "response_format"
