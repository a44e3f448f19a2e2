"""The unit of work, and Celery's producer side: nudges that leave after the commit.

A message is only a nudge (design.md, invariant 1): the sweep resends what got lost,
so a broker that is away must never fail or hang a request.
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any

import structlog
from celery import Celery
from fastapi import Depends
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from app.config import settings
from app.db import engine

log = structlog.get_logger()

SWEPT = "danlu:swept"  # in Redis: when the last sweep ended, and how long it took
CONTROL = "control"  # the queue any worker may serve: validation, publishing, the sweep


def broker_url() -> str:
    """Celery's spelling of `REDIS_URL`: kombu wants `redis+socket://` for a unix socket."""
    return settings.redis_url.replace("unix://", "redis+socket://", 1)


def node_queue(node_id: str) -> str:
    return f"node.{node_id}"


def unacked(node_id: str) -> dict[str, str]:
    """Where Celery notes what a joined node has taken and not acknowledged: not where all do."""
    names = ("unacked_key", "unacked_index_key", "unacked_mutex_key")
    return {name: f"{name}.{node_id}" for name in names}


def node_keys(node_id: str) -> list[str]:
    """The broker's keys, as patterns, of a joined node's queue: by priority, its binding, its notes."""
    queue = node_queue(node_id)
    bindings = [f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"]
    return [queue, f"{queue}\x06\x16*", *bindings, *unacked(node_id).values()]


celery = Celery("danlu")
celery.conf.update(
    broker_url=broker_url(),
    task_ignore_result=True,
    task_acks_late=False,
    task_serializer="json",
    accept_content=["json"],
    task_default_queue=CONTROL,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 3600,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        **(unacked(settings.node) if settings.server else {}),
    },
    worker_enable_remote_control=not settings.server,  # it needs keys of all
)


def send(db: Session, task: str, *args: Any, queue: str = CONTROL) -> None:
    """Put a nudge in the session's outbox; it leaves after the commit."""
    db.info.setdefault("outbox", []).append((task, args, queue))


def flush(db: Session) -> None:
    """Send what `send` collected. A broker that is away costs a log line, nothing else."""
    messages = db.info.pop("outbox", [])
    for task, args, queue in messages:
        try:
            celery.send_task(task, args=args, queue=queue, expires=60, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("nudge lost; the sweep will resend it", task=task, error=str(error))
            return


@contextmanager
def transaction() -> Iterator[Session]:
    """One unit of work: commit, then send what `send` collected. A rollback drops it.

    Services never commit.
    """
    with Session(engine(), expire_on_commit=False) as db:
        try:
            yield db
            db.commit()
        except BaseException:
            db.rollback()
            raise
        flush(db)


def get_db() -> Iterator[Session]:
    with transaction() as db:
        yield db


# scope="function": the commit comes before the response is sent (design.md, invariant 3).
Db = Annotated[Session, Depends(get_db, scope="function")]


@lru_cache
def redis() -> Redis:
    """For counters and live signals. Flushing it loses nothing."""
    return Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=5)


def redis_alive() -> bool:
    with contextlib.suppress(RedisError, OSError):
        return bool(redis().ping())
    return False
