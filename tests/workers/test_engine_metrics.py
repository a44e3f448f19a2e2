"""What engines say of themselves, in their own words. `test_engines.py` asks the real ones."""

import pytest

from workers import engine_metrics
from workers.engine_metrics import read

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="mood"} 3.0
vllm:num_requests_running{engine="1",model_name="mood"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="mood"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="mood"} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="mood"} 100.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="mood"} 1e+03
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="mood"} 5.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.025",model_name="mood"} 9.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="mood"} 10.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="mood"} 10.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="mood"} 0.1
"""


def test_vllm():
    said = read(VLLM)
    assert (said.running, said.waiting, said.cache) == (4, 2, 0.25)
    assert (said.prompted, said.generated) == (100, 1000)
    assert said.gaps == [[0.01, 5], [0.025, 9], [None, 10]]


def test_our_front_of_transformers():
    from workers.engines.front import Front

    front = Front(
        None, name="m", model="m", secret="s", max_model_len=9, chats=True, remember=print
    )
    front.tokens, front.prompted, front.running = 7, 5, 1
    said = read(front.figures())
    assert (said.running, said.prompted, said.generated) == (1, 5, 7)
    assert (said.waiting, said.cache, said.gaps) == (None, None, [])


@pytest.mark.parametrize("text", ["<html>", "vllm:num_requests_running NaN", "x{ 3", "a b c d"])
def test_what_nobody_can_read_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        read(text)


def test_strange_figures_are_kept_in_bounds():
    said = read("vllm:kv_cache_usage_perc 7\nvllm:num_requests_running -2\n")
    assert (said.cache, said.running) == (1.0, 0)
    assert read("").generated is None


def test_engines_are_asked_at_intervals(db, monkeypatch):
    looked = []
    monkeypatch.setattr(engine_metrics.replicas, "active_on", lambda *_: looked.append(1) or [])
    monkeypatch.setattr(engine_metrics, "asked", float("-inf"))
    for _ in range(3):
        engine_metrics.tick("local")
    assert looked == [1]
