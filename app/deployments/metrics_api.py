"""`/api/v1/deployments/{id}/metrics`."""

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from app.accounts.auth import Principal, requires
from app.deployments import metrics, service
from app.queue import Db

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"])
Reader = Annotated[Principal, requires("viewer", "deployments:read")]
Curve = list[float | None]


class MetricsOut(BaseModel):
    """One value per point of time in `t` (seconds since 1970, the start of `step` seconds); null:
    nothing is known. Requests and errors per minute and `first_token` (p50, p95, in seconds) as the
    gateway saw them; `generated` and `prompted` (tokens per second), `between_tokens` (p50, p95, in
    seconds), `running`, `waiting` (requests) and `cache` (percent) as the engines say; `devices`:
    name → use (percent), memory (bytes).
    """

    range: str
    step: int
    empty: bool
    t: list[int]
    requests: Curve
    errors: Curve
    first_token: dict[str, Curve]
    between_tokens: dict[str, Curve]
    generated: Curve
    prompted: Curve
    running: Curve
    waiting: Curve
    cache: Curve
    devices: dict[str, dict[str, Curve]]


@router.get("/{deployment_id}/metrics", name="api:deployments:metrics")
def get_metrics(
    deployment_id: str,
    who: Reader,
    db: Db,
    shown: Annotated[Literal["15m", "1h", "24h", "7d"], Query(alias="range")] = "1h",
) -> MetricsOut:
    """How it did: requests, errors, time to the first token, tokens per second, queue, cache and
    devices, over the last 15 minutes, hour, day or week.
    """
    deployment = service.get(db, who.workspace_id, deployment_id)
    found = metrics.curves(db, deployment, shown)
    return MetricsOut(range=shown, empty=found.empty, **asdict(found))
