"""What engines say of tokens, cut out of what the client gets."""

import json
from typing import Any

import pytest

from app.gateway import metering
from app.gateway.limits import Need
from app.gateway.metering import Tokens


def event(**more: Any) -> bytes:
    said = {"id": "c", "choices": [{"index": 0, "delta": {"content": 'a","usage":{"x":1}'}}]}
    return b"data: " + json.dumps(said | more, separators=(",", ":")).encode() + b"\n\n"


USAGE = {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2}
LAST = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


def test_usage_is_cut_out_of_every_chunk():
    details = USAGE | {"completion_tokens_details": {"reasoning_tokens": 1}}
    piece = event(usage=USAGE) + event(usage=details, system_fingerprint="f")
    left, known = metering.without_usage(piece, b"", is_wanted=False)
    assert left == event() + event(system_fingerprint="f")
    assert metering.read(json.loads(known)) == Tokens(5, 2, 0, 1)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_last_event_is_for_who_asked_for_it(wanted):
    left, known = metering.without_usage(event(usage=USAGE) + LAST + DONE, b"", is_wanted=wanted)
    assert left == event() + (LAST if wanted else b"") + DONE
    assert json.loads(known) == USAGE
    alone, _ = metering.without_usage(LAST, b"", is_wanted=wanted)
    assert alone == (LAST if wanted else b"")


def test_an_answer_of_responses_is_left_as_it_is():
    usage = {
        "input_tokens": 8,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    data = {"type": "response.completed", "response": {"id": "r", "usage": usage}}
    piece = b"event: response.completed\ndata: %s\n\n" % json.dumps(data).encode()
    for spelled in (piece, piece.replace(b'": ', b'":').replace(b", ", b",")):
        left, known = metering.without_usage(spelled, b"", is_wanted=False)
        assert left == spelled
        assert metering.read(json.loads(known)) == Tokens(8, 3, 4, 2)


def test_what_a_request_may_need():
    body = {"messages": [{"role": "user", "content": "x" * 400}]}
    assert metering.needs("chat/completions", body) == Need(109, 1, metering.USUAL)
    assert metering.needs("chat/completions", body | {"max_tokens": 10, "n": 3}).most == 30
    assert metering.needs("embeddings", {"input": "x"}).most == 0
    assert metering.needs("completions", {"prompt": "x", "max_tokens": True}).least <= 1


def test_a_guess_follows_how_fast_the_deployment_was():
    assert metering.guess("dep_new", 2.0, 1000) == 20
    for _ in range(3):
        metering.learn({"owner_id": "dep_m", "duration_ms": 1000, "completion_tokens": 50})
    assert metering.guess("dep_m", 2.0, 1000) == 100
    assert metering.guess("dep_m", 2.0, 30) == 30
