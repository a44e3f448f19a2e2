"""What this process has done at the gateway since it started, for Prometheus.

Counters of one process: Prometheus adds up several. What must not be lost stands in the ledger.
"""

from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

# a second series for each of them, which nothing draws
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
OF = ("workspace", "deployment")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

requests = Counter(
    "danlu_gateway_requests",
    "Requests at /v1 that were led to a deployment, by the HTTP status of the answer.",
    (*OF, "code"),
    registry=REGISTRY,
)
tokens = Counter(
    "danlu_gateway_tokens",
    "Tokens metered at /v1; kind is prompt or completion.",
    (*OF, "kind"),
    registry=REGISTRY,
)
first_token = Histogram(
    "danlu_gateway_first_token_seconds",
    "From a request's arrival to the first token of its answer; the whole answer, unless streamed.",
    OF,
    buckets=SECONDS,
    registry=REGISTRY,
)
duration = Histogram(
    "danlu_gateway_request_duration_seconds",
    "From a request's arrival to the end of its answer.",
    OF,
    buckets=SECONDS,
    registry=REGISTRY,
)


def observe(row: dict[str, Any]) -> None:
    """Count a request by the row that it leaves in the ledger."""
    count, prompt, completion, first, took = series(
        row["workspace_id"], row["model"], str(row["status"])
    )
    count.inc()
    prompt.inc(row["prompt_tokens"])
    completion.inc(row["completion_tokens"])
    if row["first_token_ms"] is not None:
        first.observe(row["first_token_ms"] / 1000)
    took.observe(row["duration_ms"] / 1000)


@lru_cache(maxsize=4096)
def series(
    workspace: str, deployment: str, code: str
) -> tuple[Counter, Counter, Counter, Histogram, Histogram]:
    of = (workspace, deployment)
    return (
        requests.labels(*of, code),
        tokens.labels(*of, "prompt"),
        tokens.labels(*of, "completion"),
        first_token.labels(*of),
        duration.labels(*of),
    )
