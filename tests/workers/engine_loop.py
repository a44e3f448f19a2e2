"""What sweep, Celery and the node's loop do with replicas, turn by turn, for tests."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.cluster.tables import Lease
from app.config import settings
from app.db import engine as database_engine
from app.deployments import service
from app.deployments.schemas import DeploymentCreate
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, Replica
from app.models.tables import Model
from app.queue import transaction
from tests.jobs.people import principal
from workers import process, sweep
from workers import replicas as node
from workers.starting import draining


def clean() -> Iterator[None]:
    """Around a test: what it leaves running is drained, and then nothing is left."""
    node.known.clear()
    yield
    for care in node.known.values():
        if care.task:
            care.task.exception(30)
    node.drain(settings.node)
    left = process.attempts()
    for run in left:
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), 1)
    draining().unlink(missing_ok=True)
    assert not left


def turn() -> None:
    """Sweep, start what is to be started, look after what runs."""
    sweep.sweep()
    with transaction() as db:
        waiting = db.execute(
            select(Replica.id, Replica.fence).where(
                Replica.state == "scheduled", Replica.pid.is_(None)
            )
        ).all()
    for replica_id, fence in waiting:
        node.start_replica(replica_id, fence)
    node.tick(settings.node)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        turn()
        time.sleep(0.1)


def deploy(db: Session, workspace: Workspace, model: Model, **more: Any) -> Deployment:
    db.commit()
    values = {"name": "mood", "model": model.id} | more
    with transaction() as own:
        return service.create(own, principal(own, workspace), DeploymentCreate(**values))


def look(deployment: Deployment) -> tuple[Deployment, Replica]:
    """Both rows as they are now."""
    with Session(database_engine(), expire_on_commit=False) as db:
        return db.get_one(Deployment, deployment.id), replicas_of(db, deployment.id)[0]


def state(deployment: Deployment) -> str:
    return look(deployment)[0].state


def ask(replica: Replica, path: str = "chat/completions", **body: Any) -> httpx.Response:
    if path == "chat/completions":
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8} | body
    return httpx.post(
        f"{replica.address}/v1/{path}",
        json={"model": "mood", "temperature": 0} | body,
        headers={"authorization": f"Bearer {replica.secret}"},
        timeout=60,
        verify=False,
    )


def held(db: Session) -> int:
    db.commit()
    return len(db.scalars(select(Lease).where(Lease.released_at.is_(None))).all())


def log_of(deployment: Deployment) -> str:
    with transaction() as db:
        return service.log(db, look(deployment)[1], limit=1000)[2].decode()


def replica_of(deployment: Deployment) -> Replica | None:
    with Session(database_engine(), expire_on_commit=False) as db:
        return next(iter(replicas_of(db, deployment.id)), None)
