"""How a deployment does, over time: what its engines said, what the ledger says of its requests.

Engines are read every PERIOD seconds. Those readings stay a day; the first in each KEPT seconds
stays a month. Tokens are counted from an engine's start, so a rate between two readings is right
however far apart they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Select, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on, insert
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.db import now
from app.deployments.tables import Deployment, Replica, ReplicaMetric
from app.quotas.tables import Usage

PERIOD = 10.0  # seconds between two readings of an engine
KEPT = 300  # seconds of which one reading is kept for long
FINE = timedelta(days=1)
COARSE = timedelta(days=30)
CLIENT_LEFT = 499
# what the page offers: seconds shown, seconds of one point
RANGES: dict[str, tuple[int, int]] = {
    "15m": (900, 15),
    "1h": (3600, 30),
    "24h": (86_400, 600),
    "7d": (604_800, 3600),
}


# -- writing -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What one engine said. None: it does not say. Tokens and gaps since its start; `gaps` is
    [[seconds or None for infinity, how many took at most that]].
    """

    running: int | None = None
    waiting: int | None = None
    cache: float | None = None
    prompted: int | None = None
    generated: int | None = None
    gaps: list[Any] = field(default_factory=list)


def record(db: Session, replica_id: str, fence: int, said: Reading) -> None:
    """A reading of an engine, with what its devices did at the last heartbeat. A stale fence
    changes nothing.
    """
    replica = db.get(Replica, replica_id)
    if replica is None or replica.fence != fence:
        return
    at = now().replace(microsecond=0)
    begin = datetime.fromtimestamp(at.timestamp() // KEPT * KEPT, UTC)
    earlier = select(ReplicaMetric.at).where(
        ReplicaMetric.replica_id == replica_id, ReplicaMetric.fence == fence,
        ReplicaMetric.at >= begin, ReplicaMetric.kept,
    )  # fmt: skip
    row = {
        "replica_id": replica_id,
        "at": at,
        "deployment_id": replica.deployment_id,
        "fence": fence,
        "kept": not db.scalar(select(earlier.exists())),
        "running": said.running,
        "waiting": said.waiting,
        "cache": said.cache,
        "prompted": said.prompted,
        "generated": said.generated,
        "gaps": said.gaps,
        "devices": devices(db, replica_id),
    }
    db.execute(insert(ReplicaMetric).values(**row).on_conflict_do_nothing())


def devices(db: Session, replica_id: str) -> dict[str, dict[str, float]]:
    """{cpu:0: {use (percent), memory (bytes)}} of the devices that the replica holds."""
    return {
        lease.device.name: {
            name: lease.device.stats[name]
            for name in ("use", "memory")
            if isinstance(lease.device.stats.get(name), int | float)
        }
        for lease in cluster.leases_of(db, "replica", replica_id)
    }


def clear(db: Session) -> None:
    """Let go what is too old."""
    db.execute(delete(ReplicaMetric).where(~ReplicaMetric.kept, ReplicaMetric.at < now() - FINE))
    db.execute(delete(ReplicaMetric).where(ReplicaMetric.kept, ReplicaMetric.at < now() - COARSE))


# -- reading -----------------------------------------------------------------------------

Curve = list[float | None]


@dataclass
class Curves:
    """One value per point of time, None where there is none. `t` is in seconds since 1970, the
    start of the `step` seconds that a point stands for.
    """

    step: int
    t: list[int]
    requests: Curve = field(init=False)  # per minute
    errors: Curve = field(init=False)  # per minute
    first_token: dict[str, Curve] = field(init=False)  # p50, p95: seconds, as callers saw it
    between_tokens: dict[str, Curve] = field(init=False)  # p50, p95: seconds, as engines count
    generated: Curve = field(init=False)  # tokens per second
    prompted: Curve = field(init=False)
    running: Curve = field(init=False)  # requests, the mean
    waiting: Curve = field(init=False)  # requests, the most
    cache: Curve = field(init=False)  # percent, of the fullest replica
    devices: dict[str, dict[str, Curve]] = field(default_factory=dict)  # use (percent), memory

    def __post_init__(self) -> None:
        for name in ("requests", "errors", "generated", "prompted", "running", "waiting", "cache"):
            setattr(self, name, none(self.t))
        self.first_token = {"p50": none(self.t), "p95": none(self.t)}
        self.between_tokens = {"p50": none(self.t), "p95": none(self.t)}

    @property
    def empty(self) -> bool:
        return not (any(self.requests) or any(value is not None for value in self.running))


def curves(db: Session, deployment: Deployment, shown: str) -> Curves:
    """The last `shown` (of RANGES) of a deployment."""
    length, step = RANGES[shown]
    end = int(now().timestamp()) // step * step
    times = list(range(end - length + step, end + step, step))
    since = datetime.fromtimestamp(times[0], UTC)
    place = {at: index for index, at in enumerate(times)}
    found = Curves(step, times)
    born = deployment.created_at.timestamp() - step
    for index, at in enumerate(times):
        if at > born:
            found.requests[index] = found.errors[index] = 0.0
    asked(db, deployment.id, since, found, place)
    said(db, deployment.id, since, found, place)
    used(db, deployment.id, since, found, place)
    return found


def none(times: Sequence[int]) -> Curve:
    return [None] * len(times)


def bucket(column: Any, step: int) -> ColumnElement[int]:
    size: ColumnElement[int] = literal_column(str(int(step)))
    return func.floor(func.extract("epoch", column) / size) * size


def asked(
    db: Session, deployment_id: str, since: datetime, found: Curves, place: dict[int, int]
) -> None:
    """From the ledger: requests, errors, time to the first token."""
    failed = (Usage.status >= 400) & (Usage.status != CLIENT_LEFT)
    quantiles = [
        func.percentile_cont(share).within_group(Usage.first_token_ms) for share in (0.5, 0.95)
    ]
    at = bucket(Usage.at, found.step).label("bucket")
    query = (
        select(at, func.count(), func.count().filter(failed), *quantiles)
        .where(Usage.owner_id == deployment_id, Usage.kind == "tokens", Usage.at >= since)
        .group_by(at)
    )
    for start, count, errors, half, most in db.execute(query):
        index = place.get(int(start))
        if index is not None:
            found.requests[index] = round(count * 60 / found.step, 3)
            found.errors[index] = round(errors * 60 / found.step, 3)
            found.first_token["p50"][index] = half and round(half / 1000, 4)
            found.first_token["p95"][index] = most and round(most / 1000, 4)


def said(
    db: Session, deployment_id: str, since: datetime, found: Curves, place: dict[int, int]
) -> None:
    """From the engines: queue, cache, tokens per second, time between two tokens."""
    gauges: dict[str, dict[int, list[float]]] = {"running": {}, "waiting": {}, "cache": {}}
    rates: dict[str, dict[int, float]] = {"prompted": {}, "generated": {}}
    gaps: dict[int, dict[float | None, float]] = {}
    before: Any = None
    for row in db.execute(readings(deployment_id, since, found.step)):
        index = place.get(int(row.bucket))
        same = before and (before.replica_id, before.fence) == (row.replica_id, row.fence)
        if index is not None:
            for name, values in gauges.items():
                if getattr(row, name) is not None:
                    values.setdefault(index, []).append(float(getattr(row, name)))
            count_up(before if same else First.of(row), row, index, rates, gaps)
        before = row
    for index, running in gauges["running"].items():
        found.running[index] = round(sum(running), 2)
    for index, waiting in gauges["waiting"].items():
        found.waiting[index] = sum(waiting)
    for index, filled in gauges["cache"].items():
        found.cache[index] = round(100 * max(filled), 2)
    for name, by_index in rates.items():
        for index, rate in by_index.items():
            getattr(found, name)[index] = round(rate, 2)
    for index, counts in gaps.items():
        for share, name in ((0.5, "p50"), (0.95, "p95")):
            found.between_tokens[name][index] = quantile(counts, share)


def readings(deployment_id: str, since: datetime, step: int) -> Select[Any]:
    """One row for each replica, start and bucket, in order; counts as they stood at its end, and at
    its begin. From a little before `since`, so that the first point has a whole rate as well.
    """
    metric = ReplicaMetric
    at = bucket(metric.at, step).label("bucket")
    last = func.array_agg(aggregate_order_by(metric.gaps, metric.at.desc()))[1].label("gaps")
    first = func.array_agg(aggregate_order_by(metric.gaps, metric.at))[1].label("first_gaps")
    early = since - timedelta(seconds=max(step, 2 * KEPT))
    return (
        select(
            metric.replica_id,
            metric.fence,
            at,
            func.max(metric.at).label("at"),
            func.avg(metric.running).label("running"),
            func.max(metric.waiting).label("waiting"),
            func.max(metric.cache).label("cache"),
            func.max(metric.prompted).label("prompted"),
            func.max(metric.generated).label("generated"),
            last,
            func.min(metric.at).label("first_at"),
            func.min(metric.prompted).label("first_prompted"),
            func.min(metric.generated).label("first_generated"),
            first,
        )
        .where(metric.deployment_id == deployment_id, metric.at >= early)
        .group_by(metric.replica_id, metric.fence, at)
        .order_by(metric.replica_id, metric.fence, at)
    )


class First(NamedTuple):
    """The first reading in an engine's first bucket: nothing before it could be counted from."""

    at: datetime
    prompted: int | None
    generated: int | None
    gaps: list[Any]

    @classmethod
    def of(cls, row: Any) -> Self:
        return cls(row.first_at, row.first_prompted, row.first_generated, row.first_gaps)


def count_up(
    before: Any,
    row: Any,
    index: int,
    rates: dict[str, dict[int, float]],
    gaps: dict[int, dict[float | None, float]],
) -> None:
    """What was added between two readings of one engine."""
    seconds = (row.at - before.at).total_seconds()
    for name, values in rates.items():
        first, last = getattr(before, name), getattr(row, name)
        if seconds > 0 and first is not None and last is not None and last >= first:
            values[index] = values.get(index, 0.0) + (last - first) / seconds
    known = dict(map(tuple, before.gaps))
    counts = gaps.setdefault(index, {})
    for limit, count in row.gaps:
        counts[limit] = counts.get(limit, 0.0) + max(0.0, count - known.get(limit, 0))


def quantile(counts: dict[float | None, float], share: float) -> float | None:
    """In seconds, from how many took at most each limit (None: infinity); within a limit the
    times count as evenly spread, as Prometheus has it. None without a single one.
    """
    limits = sorted(counts, key=lambda limit: float("inf") if limit is None else limit)
    total = max(counts.values(), default=0.0)
    if total <= 0:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for limit in limits:
        if counts[limit] >= wanted:
            if limit is None:
                return low
            inside = counts[limit] - below
            part = (wanted - below) / inside if inside else 1.0
            return round(low + (limit - low) * part, 5)
        low, below = low if limit is None else limit, counts[limit]
    return low


def used(
    db: Session, deployment_id: str, since: datetime, found: Curves, place: dict[int, int]
) -> None:
    """What the devices did: the mean of their use, the most of their memory."""
    metric = ReplicaMetric
    each = func.jsonb_each(metric.devices).table_valued("key", "value").lateral("each")
    at = bucket(metric.at, found.step).label("bucket")
    reading = func.jsonb_extract_path_text
    query = (
        select(
            at,
            each.c.key,
            func.avg(reading(each.c.value, "use").cast(metric.cache.type)),
            func.max(reading(each.c.value, "memory").cast(metric.cache.type)),
        )
        .select_from(metric)
        .join(each, each.c.key.is_not(None))
        .where(metric.deployment_id == deployment_id, metric.at >= since)
        .group_by(at, each.c.key)
        .order_by(each.c.key)
    )
    for start, name, use, memory in db.execute(query):
        index = place.get(int(start))
        if index is not None:
            kinds = {"use": none(found.t), "memory": none(found.t)}
            device = found.devices.setdefault(name, kinds)
            device["use"][index] = None if use is None else round(use, 1)
            device["memory"][index] = memory


# -- now ---------------------------------------------------------------------------------


def latest(db: Session, within: float = 60.0) -> list[tuple[ReplicaMetric, Deployment]]:
    """The newest reading of every engine that was read in the last `within` seconds."""
    query = (
        select(ReplicaMetric, Deployment)
        .join(Deployment, Deployment.id == ReplicaMetric.deployment_id)
        .where(ReplicaMetric.at > now() - timedelta(seconds=within))
        .ext(distinct_on(ReplicaMetric.replica_id))
        .order_by(ReplicaMetric.replica_id, ReplicaMetric.at.desc())
    )
    return [(metric, deployment) for metric, deployment in db.execute(query)]
