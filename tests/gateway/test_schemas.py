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
