"""What all of Danlu does, in Prometheus' text format: read from the rows at each scrape.

Every process of the web tier says the same of the rows, and its own of the gateway. Names and
units are in docs/monitoring.md; docs/grafana-danlu.json draws them.
"""

import hmac
import importlib.metadata
import ipaddress
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import structlog
from fastapi import Request as HttpRequest
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster import service as cluster
from app.cluster.tables import Device, Lease, Node, Request
from app.config import settings
from app.db import now
from app.deployments import metrics as engines
from app.deployments.tables import Deployment, Replica
from app.gateway import loads
from app.gateway.figures import REGISTRY
from app.jobs.tables import Job
from app.queue import SWEPT, redis, transaction

log = structlog.get_logger()

Samples = Iterable[tuple[tuple[str, ...], float]]


def gauge(name: str, words: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    found = GaugeMetricFamily(f"danlu_{name}", words, labels=labels)
    for values, number in samples:
        found.add_metric(values, number)
    return found


def one(name: str, words: str, number: float) -> Metric:
    return GaugeMetricFamily(f"danlu_{name}", words, value=number)


# -- the rows ----------------------------------------------------------------------------


def from_rows(db: Session) -> Iterator[Metric]:
    """Jobs, deployments, the queue, devices, nodes, engines, workspaces."""
    yield gauge(
        "workspace_info", "A workspace's short name.", ("workspace", "slug"),
        (((row.id, row.slug), 1) for row in db.execute(select(Workspace.id, Workspace.slug))),
    )  # fmt: skip
    yield counted(db, "jobs", "Jobs.", ("state", "stage"), Job.state, Job.stage)
    live = Deployment.deleted_at.is_(None)
    yield counted(db, "deployments", "Deployments.", ("state",), Deployment.state, where=live)
    yield counted(
        db, "replicas", "Replicas: one engine each.", ("state", "engine"),
        Replica.state, Replica.engine,
    )  # fmt: skip
    yield from queue(db)
    yield from devices(db)
    yield from nodes(db)
    yield from replicas(db)


def counted(
    db: Session, name: str, words: str, labels: tuple[str, ...], *columns: Any, where: Any = True
) -> Metric:
    """How many rows there are of each kind."""
    rows = db.execute(select(*columns, func.count()).where(where).group_by(*columns))
    return gauge(name, words, labels, ((tuple(map(str, row[:-1])), row[-1]) for row in rows))


def queue(db: Session) -> Iterator[Metric]:
    waiting = Request.granted_at.is_(None)
    yield counted(
        db, "queue_requests", "Requests for devices that wait, and why.", ("owner", "reason"),
        Request.owner_kind, Request.reason, where=waiting,
    )  # fmt: skip
    oldest = db.scalar(select(func.min(Request.created_at)).where(waiting))
    waited = (now() - oldest).total_seconds() if oldest else 0.0
    yield one("queue_oldest_wait_seconds", "How long the oldest of them has waited.", waited)


def devices(db: Session) -> Iterator[Metric]:
    held = set(db.scalars(select(Lease.device_id).where(Lease.released_at.is_(None))))
    query = select(Device).where(Device.retired.is_(False))
    found = list(db.scalars(query.order_by(Device.node_id, Device.name)))
    labels = ("node", "device")

    def each(value: Any) -> Samples:
        said = (((device.node_id, device.name), value(device)) for device in found)
        return [(names, float(number)) for names, number in said if number is not None]

    yield gauge(
        "device_info", "A device, and what it is.", (*labels, "kind", "model"),
        (((one.node_id, one.name, one.kind, one.model), 1) for one in found),
    )  # fmt: skip
    yield gauge("device_healthy", "1 if it can be used.", labels, each(lambda one: one.healthy))
    yield gauge(
        "device_held", "1 if a job or a replica holds it, or a share of it.", labels,
        each(lambda one: one.id in held),
    )  # fmt: skip
    yield gauge("device_memory_bytes", "Its memory.", labels, each(lambda one: one.memory))
    yield gauge(
        "device_memory_used_bytes", "Its memory in use, whoever uses it.", labels,
        each(lambda one: one.stats.get("memory")),
    )  # fmt: skip
    yield gauge(
        "device_use_ratio", "How busy it was at the last heartbeat, 0 to 1.", labels,
        each(lambda one: None if one.stats.get("use") is None else one.stats["use"] / 100),
    )  # fmt: skip
    yield from measured(found)


MEASURED = {
    "device_temperature_celsius": ("temperature", "Its temperature."),
    "device_power_watts": ("power", "What it draws."),
    "device_power_limit_watts": ("power_limit", "What it may draw."),
}


def measured(found: list[Device]) -> Iterator[Metric]:
    """What GPUs say beside their use and memory."""
    for name, (key, words) in MEASURED.items():
        said = (((one.node_id, one.name), one.stats.get(key)) for one in found)
        samples = [(names, float(number)) for names, number in said if number is not None]
        yield gauge(name, words, ("node", "device"), samples)
    taken = (((one.node_id, one.name), float(one.taken)) for one in found)
    words = "Its memory in use by programs that are not Danlu's."
    yield gauge("device_foreign_bytes", words, ("node", "device"), taken)


def nodes(db: Session) -> Iterator[Metric]:
    found = list(db.scalars(select(Node).order_by(Node.id)))
    yield gauge(
        "node_up", "1 if the node is in touch.", ("node",),
        (((node.id,), not cluster.unreachable(node) and node.dead_at is None) for node in found),
    )  # fmt: skip
    yield gauge(
        "node_heartbeat_age_seconds", "Since its last heartbeat.", ("node",),
        (((node.id,), (now() - node.seen_at).total_seconds()) for node in found),
    )  # fmt: skip
    yield gauge(
        "outbox_lag_seconds", "How long the slowest run has had something not yet shipped.",
        ("node",),
        (((node.id,), float(node.facts.get("shipping_lag") or 0.0)) for node in found),
    )  # fmt: skip


ENGINES = {
    "engine_requests_running": ("running", "Requests that an engine works on."),
    "engine_requests_waiting": ("waiting", "Requests in an engine's own queue."),
    "engine_cache_use_ratio": ("cache", "Its key-value cache in use, 0 to 1."),
}
TOTALS = {
    "engine_prompt_tokens": ("prompted", "Tokens of prompts since the engine started."),
    "engine_generation_tokens": ("generated", "Tokens of answers since the engine started."),
}


def replicas(db: Session) -> Iterator[Metric]:
    """What engines said at their last reading; one that is silent for a minute is left out."""
    labels = ("workspace", "deployment", "replica")
    found = [
        ((deployment.workspace_id, deployment.name, said.replica_id), said)
        for said, deployment in engines.latest(db)
    ]
    for kinds, family in ((ENGINES, GaugeMetricFamily), (TOTALS, CounterMetricFamily)):
        for name, (column, words) in kinds.items():
            metric = family(f"danlu_{name}", words, labels=labels)
            for names, said in found:
                if (number := getattr(said, column)) is not None:
                    metric.add_metric(names, number)
            yield metric


# -- this process and its machine ---------------------------------------------------------


def from_redis() -> Iterator[Metric]:
    """Whether it answers, and what the sweep left there."""
    try:
        said = redis().get(SWEPT)
    except (RedisError, OSError):
        yield one("redis_up", "1 if Redis answers.", 0)
        return
    yield one("redis_up", "1 if Redis answers.", 1)
    swept: Mapping[str, float] = orjson.loads(said) if said else {}
    if swept:
        yield one("sweep_duration_seconds", "How long the last sweep took.", swept["seconds"])
        age = max(0.0, time.time() - swept["at"])
        yield one("sweep_age_seconds", "Since the last sweep ended.", age)


def from_here() -> Iterator[Metric]:
    """Disks, what this process has open, and what it has not yet written down."""
    places = {"home": settings.home}
    if "://" not in settings.store_url:
        places["store"] = Path(settings.store_url)
    usage = {
        name: shutil.disk_usage(path) for name, path in sorted(places.items()) if path.exists()
    }
    yield gauge(
        "disk_free_bytes", "Free space where Danlu keeps its files.", ("place",),
        (((name,), found.free) for name, found in usage.items()),
    )  # fmt: skip
    yield gauge(
        "disk_size_bytes", "The size of that disk.", ("place",),
        (((name,), found.total) for name, found in usage.items()),
    )  # fmt: skip
    yield one(
        "gateway_requests_in_flight", "Requests that this process has open at engines.",
        sum(count for one, count in loads.in_flight.items() if one.startswith("rep_")),
    )  # fmt: skip
    spooled = sum(path.stat().st_size for path in settings.spool.glob("usage-*.jsonl"))
    yield one("usage_spool_bytes", "Usage that is metered and not yet in the ledger.", spooled)


class Danlu(Collector):
    def collect(self) -> Iterator[Metric]:
        """All that is read at a scrape. A database that is away takes away only what it knows."""
        yield gauge(
            "build_info", "This Danlu.", ("version",), [((importlib.metadata.version("danlu"),), 1)]
        )
        try:
            with transaction() as db:
                found = list(from_rows(db))
        except SQLAlchemyError as error:
            log.warning("no figures from the database", why=str(error).splitlines()[0])
            yield one("database_up", "1 if Postgres answers.", 0)
        else:
            yield one("database_up", "1 if Postgres answers.", 1)
            yield from found
        yield from from_redis()
        yield from from_here()


REGISTRY.register(Danlu())
ProcessCollector(registry=REGISTRY)


def text() -> bytes:
    return generate_latest(REGISTRY)


# -- who may -----------------------------------------------------------------------------

FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def refusal(request: HttpRequest) -> tuple[int, str] | None:
    """Why the figures are not for whoever asks: status and words; None if they are.

    With DANLU_METRICS_TOKEN they are for who sends it. Without, for programs on this machine, as
    long as Danlu has no public address: behind a proxy here, everybody comes from this machine.
    """
    if settings.metrics_token:
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        wanted = settings.metrics_token.encode()
        if kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), wanted):
            return None
        return 401, "Send the value of DANLU_METRICS_TOKEN as a bearer token."
    published = bool(settings.public_url) and not loopback(urlsplit(settings.url).hostname)
    passed_on = any(name in request.headers for name in FORWARDED)
    address = request.client.host if request.client else None
    if loopback(address) and loopback(request.url.hostname) and not published and not passed_on:
        return None
    return 403, "Set DANLU_METRICS_TOKEN to read this from another machine or through a proxy."


def loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
