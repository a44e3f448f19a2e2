"""The sweep: what makes rows go on. Nudged every 5 s, and at once when somebody asks for devices.

Each step is one transaction and does no harm twice; a step that fails does not keep the others
from being done. Two sweeps at once wait for each other at the cluster's lock.
"""

import json
import time
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from app.accounts import audit, platform
from app.alerts import service as alerts
from app.backups import service as backups
from app.cluster import budgets, nodes, readings
from app.cluster import service as cluster
from app.datasets import sweep as datasets
from app.datasets.drafts import comparing, rewriting
from app.deployments import idle, metrics, moving, replicas, schedules, wanted
from app.evaluations import promoting, tuning
from app.gateway import ledger
from app.gateway.files import service as files
from app.gateway.files import uploads as file_uploads
from app.gateway.requests import service as requests
from app.gateway.tuning import preparing, results
from app.jobs import orphans, preempting, resuming, retention, webhook
from app.jobs import runs as jobs
from app.models import sweep as models
from app.nodework import broker, ending
from app.queue import SWEPT, redis, transaction
from app.quotas import limits
from app.uploads import service as uploads
from workers import spending, watch

log = structlog.get_logger()


def sweep() -> None:
    for step in (
        bury,
        broker.restore,
        schedules.carry_out,
        idle.rest,
        empty,
        wanted.reconcile,
        decide,
        cluster.foresee,
        budgets.write,
        limits.clear,
        spending.step,
        jobs.resend,
        resuming.clear,
        datasets.resend,
        rewriting.resend,
        comparing.resend,
        uploads.clear,
        models.resend,
        webhook.resend,
        tuning.keep,
        tuning.begin_due,
        promoting.go_on,
        metrics.clear,
        readings.clear,
        preparing.resend,
        results.settle_all,
        file_uploads.clear,
        files.clear,
        flush,
        requests.clear,
        watch.nodes,
        watch.deployments,
        watch.disks,
        backups.due,
        alerts.repeat,
        alerts.resend,
        retention.clear_logs,
        orphans.resend,
        alerts.clear,
        audit.clear,
    ):
        run(step)


def timed() -> None:
    """A sweep, and for /metrics how long it took."""
    began = time.monotonic()
    sweep()
    took = {"at": time.time(), "seconds": round(time.monotonic() - began, 4)}
    try:
        redis().set(SWEPT, json.dumps(took))
    except (RedisError, OSError) as error:
        log.warning("nobody is told of the sweep", error=str(error))


def run(step: Callable[[Session], None]) -> None:
    try:
        with transaction() as db:
            step(db)
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error, OperationalError):
            raise  # the database is away: the next sweep tries again
        log.exception("a step of the sweep failed", step=step.__name__)
    except Exception:
        log.exception("a step of the sweep failed", step=step.__name__)


def flush(_: Session) -> None:
    """Settle what a gateway that was killed has left behind. In transactions of its own."""
    ledger.flush()


def decide(db: Session) -> None:
    """Grant devices, and hand each grant to its owner; tell who must make room. One transaction."""
    if platform.read(db).maintenance.active:
        cluster.rest(db)
        return
    cluster.lock(db)
    preempting.tell_saved(db)
    for grant in cluster.decide(db):
        owner = jobs if grant.owner_kind == "job" else replicas
        owner.grant(db, grant.owner_id, grant.node_id)
    for told in cluster.told(db):
        preempting.preempt(db, told)


def empty(db: Session) -> None:
    """Have what runs on nodes that are drained leave them."""
    draining = nodes.draining(db)
    if draining:
        cluster.lock(db)
    for node_id, late in draining:
        for job in jobs.active_on(db, node_id):
            jobs.make_way(db, job.id, late=late)
        for replica in replicas.active_on(db, node_id):
            moving.make_way(db, replica.id, late=late)


def bury(db: Session) -> None:
    """Declare silent nodes dead, and end what ran there: it goes on elsewhere."""
    cluster.lock(db)
    for node_id in cluster.bury(db):
        log.warning("node declared dead", node=node_id)
        ending.end_all(db, node_id, ending.DEAD)
