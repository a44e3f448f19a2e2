"""Adapters go into engines that run, come out again, and come back with every new start. Real
processes, with a stand-in for vLLM's server; `test_hot.py` has vLLM.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.config import settings
from app.db import now
from app.deployments import idle, service
from app.deployments.schemas import DeploymentCreate
from app.deployments.tables import Deployment, Replica
from app.models.tables import Model
from app.queue import transaction
from tests.deployments.speakers import make_base, make_tuned, place
from tests.factories import make_node, make_workspace
from tests.jobs.people import principal
from tests.workers import engine_loop, stand_in_vllm
from tests.workers.engine_loop import deploy, look, state
from workers import adapters, process


@pytest.fixture
def workspace(db: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(settings, "serve_python", stand_in_vllm.install(tmp_path))
    make_node(db, id=settings.node)
    return make_workspace(db)


@pytest.fixture
def base(db: Session) -> Model:
    return make_base(db, parameters=4_000_000, size=8_000_000)


@pytest.fixture(autouse=True)
def nothing_left(database: None) -> Iterator[None]:
    yield from engine_loop.clean()


def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        engine_loop.turn()
        adapters.tick(settings.node)
        time.sleep(0.05)


def add(workspace: Workspace, model: Model, name: str) -> Deployment:
    with transaction() as db:
        body = DeploymentCreate(name=name, model=model.id)
        return service.create(db, principal(db, workspace), body)


def state_of(guest: Deployment) -> str:
    with transaction() as db:
        return db.get_one(Deployment, guest.id).state


def voice(workspace: Workspace, name: str) -> str | None:
    """What the adapter says through the route that the gateway would take; None without one."""
    with transaction() as db:
        found = service.route(db, workspace.id, name)
    if found is None or not found.replicas:
        return None
    way = found.replicas[0]
    answer = httpx.post(
        f"{way.address}/v1/completions",
        json={"model": way.served_name, "prompt": "x"},
        headers={"authorization": f"Bearer {way.secret}"},
    )
    assert answer.status_code == 200, answer.text
    return str(json.loads(answer.json()["choices"][0]["text"])["voice"])


def restart(replica: Replica) -> None:
    """Kill its engine, and have it started again without the pause."""
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGKILL)

    def failed() -> bool:
        with transaction() as db:
            row = db.get_one(Replica, replica.id)
            if row.state == "pending" and row.retry_at:
                row.retry_at = now()
            return row.fence > replica.fence

    until(failed)


def test_adapters_come_and_go_and_come_back(db: Session, workspace: Workspace, base: Model) -> None:
    one, two = (make_tuned(db, workspace, base) for _ in range(2))
    names = (one.name, two.name)
    host = deploy(db, workspace, base, name="host")
    until(lambda: state(host) == "ready")
    first, second = add(workspace, one, "one"), add(workspace, two, "two")
    until(lambda: state_of(first) == state_of(second) == "ready")
    assert (voice(workspace, "one"), voice(workspace, "two")) == names
    assert voice(workspace, "host") == "base"

    # the engine dies: all it carried is there again before anybody is sent to it
    replica = look(host)[1]
    restart(replica)
    until(lambda: state_of(first) == state_of(second) == "ready" and voice(workspace, "one"))
    assert look(host)[1].fence == replica.fence + 1
    assert (voice(workspace, "one"), voice(workspace, "two")) == names

    # another model under the name of one that is gone
    with transaction() as own:
        service.delete(own, workspace.id, first.id)
    again = add(workspace, two, "one")
    until(lambda: state_of(again) == "ready")
    assert voice(workspace, "one") == names[1]

    # least recently used: out, and in again when somebody asks
    with transaction() as own:
        own.get_one(Deployment, host.id).adapters = 1
    until(lambda: state_of(second) == "idle")
    assert voice(workspace, "two") is None
    with transaction() as own:
        assert idle.wake(own, second.id)
    until(lambda: state_of(second) == "ready" and state_of(again) == "idle")
    assert voice(workspace, "two") == names[1]
    assert len(process.attempts()) == 1


def test_a_refused_adapter_harms_nobody(db: Session, workspace: Workspace, base: Model) -> None:
    good, bad = (make_tuned(db, workspace, base) for _ in range(2))
    name = good.name
    (place(bad) / "broken").touch()
    host = deploy(db, workspace, base, name="host")
    until(lambda: state(host) == "ready")
    refused, fine = add(workspace, bad, "bad"), add(workspace, good, "good")
    until(lambda: state_of(refused) == "error" and state_of(fine) == "ready")
    with transaction() as own:
        error = own.get_one(Deployment, refused.id).error
    assert error is not None
    assert error["code"] == "adapter_refused"
    assert "max_lora_rank" in error["params"]["why"]
    assert "merged" in error["advice"]
    assert voice(workspace, "bad") is None
    assert voice(workspace, "good") == name
    assert voice(workspace, "host") == "base"


def test_a_load_that_nobody_noted_down_is_done_again(
    db: Session, workspace: Workspace, base: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node dies between the engine's word and the row: the name may be that of other files."""
    model = make_tuned(db, workspace, base)
    name = model.name
    host = deploy(db, workspace, base, name="host")
    until(lambda: state(host) == "ready")
    guest = add(workspace, model, "mood")
    with monkeypatch.context() as patch:
        patch.setattr(adapters.carrying, "mark_loaded", lambda *_, **__: 1 / 0)
        adapters.tick(settings.node)
        carried = adapters.busy[look(host)[1].id]
        assert isinstance(carried.exception(10), ZeroDivisionError)
    assert voice(workspace, "mood") is None
    until(lambda: state_of(guest) == "ready")
    assert voice(workspace, "mood") == name
