"""Requests to a deployment that sleeps: they wait, are answered, or hear why not."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.accounts.tables import Workspace
from app.cluster.tables import Node
from app.config import settings
from app.db import engine as database
from app.deployments import idle, replicas, service
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment
from app.errors import Unavailable
from app.gateway import waking
from app.gateway.service import ClientGone
from app.queue import transaction
from tests.deployments.acts import messages, sweep
from tests.factories import GIB, make_node, make_workspace
from tests.gateway.engines import Engine, deploy, running, streamed, until, whole

WOKEN = "A request woke it."


@pytest.fixture
def workspace(db: Session) -> Workspace:
    made = make_workspace(db)
    db.commit()
    return made


def asleep(db: Session, workspace: Workspace, **values: Any) -> Deployment:
    """A deployment whose engines have stopped, and a node that could start them."""
    made = deploy(
        db, workspace, **{"desired": "idle", "replicas": 1, "estimate": {"all": GIB}} | values
    )
    with transaction() as own:
        deployment = own.get_one(Deployment, made.id)
        deployment.served_model_id = deployment.model_id
        deployment.state, deployment.idled_at = "idle", deployment.created_at
    make_node(db)
    db.commit()
    return made


def start(deployment: Deployment, engine: Engine) -> None:
    """What sweep and node do once they are nudged."""
    with transaction() as db:
        sweep(db)
        for replica in replicas_of(db, deployment.id):
            assert replicas.mark_started(
                db, replica.id, replica.fence, pid=2**22, pid_started=1.0,
                address=engine.address, secret="s", engine="vllm",
            )  # fmt: skip
            assert replicas.mark(db, replica.id, replica.fence, state="ready")


def desired(deployment: Deployment) -> str:
    with transaction() as db:
        return db.get_one(Deployment, deployment.id).desired


def test_many_requests_wake_it_once_and_are_answered_when_it_is_ready(db, workspace):
    deployment = asleep(db, workspace)

    async def test() -> None:
        async with Engine() as engine:
            asking = [asyncio.create_task(whole(workspace)) for _ in range(40)]
            streams = [asyncio.create_task(streamed(workspace)) for _ in range(10)]
            await until(lambda: desired(deployment) == "running")
            await asyncio.sleep(0.5)
            assert waking.watches[deployment.id].waiting == 50
            pool: Any = database().pool
            busy = [pool.checkedout() for _ in range(20) if not await asyncio.sleep(0.01)]
            assert max(busy) <= 2  # nobody holds a session while waiting
            await run_in_threadpool(start, deployment, engine)
            began = time.monotonic()
            exchanges = await asyncio.gather(*asking)
            await asyncio.gather(*streams)
            assert time.monotonic() - began < 2
            assert {exchange.status for exchange in exchanges} == {200}
            assert waking.watches == {}

    running(test)
    db.expire_all()
    assert messages(db, deployment).count(WOKEN) == 1
    assert (deployment.state, deployment.idled_at) == ("ready", None)
    assert deployment.last_used_at is not None


def test_one_that_is_just_lying_down_gets_up_again(db, workspace):
    """The engine that was asked to stop ends first; then another starts."""

    async def test() -> None:
        async with Engine() as engine:
            deployment = deploy(db, workspace, engine, idle_minutes=5, estimate={"all": GIB})
            deployment.served_model_id = deployment.model_id
            make_node(db)
            db.commit()
            with transaction() as own:
                idle.sleep(own, workspace.id, deployment.id)
            asking = asyncio.create_task(whole(workspace))
            await until(lambda: desired(deployment) == "running")
            assert engine.asked == []
            with transaction() as own:
                (replica,) = replicas_of(own, deployment.id)
                assert replica.state == "stopping"
                assert replicas.end(own, replica.id, replica.fence)
                assert own.info["outbox"] == [("workers.sweep", (), "control")]
            await run_in_threadpool(start, deployment, engine)
            assert (await asking).status == 200

    running(test)


def refused(workspace: Workspace) -> Unavailable:
    found: list[Unavailable] = []

    async def test() -> None:
        with pytest.raises(Unavailable) as caught:
            await whole(workspace)
        found.append(caught.value)

    running(test)
    return found[0]


def test_the_wait_has_an_end(db, workspace, monkeypatch):
    monkeypatch.setattr(settings, "wake_seconds", 1)
    deployment = asleep(db, workspace)
    began = time.monotonic()
    error = refused(workspace)
    assert 0.9 < time.monotonic() - began < 5
    assert (error.code, error.retry_after, error.status) == ("deployment_waking", 10, 503)
    assert desired(deployment) == "running"  # it goes on waking


def test_without_a_free_device_the_reason_is_told(db, workspace):
    deployment = asleep(db, workspace)
    for node in db.scalars(select(Node)):
        node.cordoned = True
    db.commit()

    async def test() -> None:
        asking = asyncio.create_task(whole(workspace))
        await until(lambda: desired(deployment) == "running")
        for _ in range(2):  # the first decides, the second tells the deployment
            with transaction() as own:
                sweep(own)
        with pytest.raises(Unavailable) as caught:
            await asking
        assert (caught.value.code, caught.value.retry_after) == ("deployment_waits", 30)
        assert "waits for a node" in caught.value.params["why"]["message"]
        began = time.monotonic()  # who comes later hears it at once
        with pytest.raises(Unavailable):
            await whole(workspace)
        assert time.monotonic() - began < 1

    running(test)


def test_an_engine_that_does_not_start_is_told(db, workspace):
    deployment = asleep(db, workspace)

    async def test() -> None:
        asking = asyncio.create_task(whole(workspace))
        await until(lambda: desired(deployment) == "running")
        with transaction() as own:
            sweep(own)
            (replica,) = replicas_of(own, deployment.id)
            error = {"code": "out_of_memory", "message": "No.", "permanent": True}
            assert replicas.end(own, replica.id, replica.fence, error)
        with pytest.raises(Unavailable) as caught:
            await asking
        assert caught.value.code == "deployment_not_ready"
        assert caught.value.params["state"] == "error"

    running(test)


def test_one_that_is_stopped_meanwhile_is_not_waited_for(db, workspace):
    deployment = asleep(db, workspace)

    async def test() -> None:
        asking = asyncio.create_task(whole(workspace))
        await until(lambda: desired(deployment) == "running")
        with transaction() as own:
            service.stop(own, workspace.id, deployment.id)
        with pytest.raises(Unavailable) as caught:
            await asking
        assert caught.value.code == "deployment_stopped"

    running(test)


def test_who_leaves_stops_waiting(db, workspace):
    deployment = asleep(db, workspace)

    async def test() -> None:
        left = asyncio.Event()

        async def leaving() -> None:
            await left.wait()

        asking = [asyncio.create_task(ask(workspace, gone=leaving)) for ask in (whole, streamed)]
        await until(lambda: deployment.id in waking.watches)
        await until(lambda: waking.watches[deployment.id].waiting == 2)
        task = waking.watches[deployment.id].task
        left.set()
        for one in asking:
            with pytest.raises(ClientGone):
                await one
        await until(lambda: not waking.watches)
        await until(task.done)

    running(test)


def test_only_so_many_may_wait(db, workspace, monkeypatch):
    monkeypatch.setattr(waking, "MOST_WAITING", 3)
    monkeypatch.setattr(settings, "wake_seconds", 2)
    asleep(db, workspace)

    async def test() -> None:
        asking = [asyncio.create_task(whole(workspace)) for _ in range(5)]
        done, waiting = await asyncio.wait(asking, timeout=1)
        assert (len(done), len(waiting)) == (2, 3)
        errors = [one.exception() for one in done]
        assert {error.code for error in errors if isinstance(error, Unavailable)} == {
            "deployment_waking"
        }
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)

    running(test)
