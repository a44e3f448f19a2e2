"""What the engines of this node say of themselves, every few seconds: queue, cache, tokens.

Each engine is asked over loopback with its own secret; vLLM answers with its Prometheus figures,
transformers with what our front counts. What an engine does not say stays empty.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.deployments import metrics, replicas
from app.deployments.metrics import Reading
from app.deployments.replicas import Running
from app.nodework.asking import do
from app.queue import transaction
from workers.engines.health import QUICK, client, key

MOST = 4 * 2**20  # characters of an engine's answer
# ours ← the names that engines have for it; figures of several engine cores are added up
GAUGES = {
    "running": ("vllm:num_requests_running", "danlu:num_requests_running"),
    "waiting": ("vllm:num_requests_waiting",),
    "cache": ("vllm:kv_cache_usage_perc",),
    "prompted": ("vllm:prompt_tokens_total", "danlu:prompt_tokens_total"),
    "generated": ("vllm:generation_tokens_total", "danlu:generation_tokens_total"),
}
GAPS = "vllm:inter_token_latency_seconds_bucket"

pool = ThreadPoolExecutor(8, thread_name_prefix="metrics")
asked = -metrics.PERIOD


def tick(node_id: str) -> None:
    """Ask every engine that answers requests, when it is time to."""
    global asked
    if time.monotonic() - asked < metrics.PERIOD:
        return
    asked = time.monotonic()
    with transaction() as db:
        active = [one for one in replicas.active_on(db, node_id) if one.state == "ready"]
    answers = list(zip(active, pool.map(ask, active), strict=True))
    for one, said in answers:
        if said:
            do(metrics.record, one.id, one.fence, said)


def ask(one: Running) -> Reading | None:
    """None for an engine that does not answer, or answers what nobody can read."""
    try:
        answer = client.get(f"{one.address}/metrics", headers=key(one.secret), timeout=QUICK)
        answer.raise_for_status()
        return read(answer.text[:MOST])
    except (httpx.HTTPError, ValueError):
        return None


def read(text: str) -> Reading:
    """An engine's figures in Prometheus' text format. Raises ValueError when it is not that."""
    sums: dict[str, float] = {}
    gaps: dict[float, float] = {}
    names = {name: ours for ours, all_names in GAUGES.items() for name in all_names}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if ours := names.get(sample.name):
                sums[ours] = sums.get(ours, 0.0) + sample.value
            elif sample.name == GAPS:
                limit = float(sample.labels["le"])
                gaps[limit] = gaps.get(limit, 0.0) + sample.value
    if not all(math.isfinite(value) for value in (*sums.values(), *gaps.values())):
        raise ValueError("a figure that is none")
    whole = {name: max(0, round(value)) for name, value in sums.items() if name != "cache"}
    return Reading(
        running=whole.get("running"),
        waiting=whole.get("waiting"),
        cache=min(max(sums["cache"], 0.0), 1.0) if "cache" in sums else None,
        prompted=whole.get("prompted"),
        generated=whole.get("generated"),
        gaps=[
            [None if math.isinf(limit) else limit, round(count)]
            for limit, count in sorted(gaps.items())
        ],
    )
