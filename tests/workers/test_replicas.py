"""Engines under the node's loop: started, watched, killed, adopted, stopped. Real processes, with
the stand-in behind our front; `test_engines.py` has the real engines."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import Workspace
from app.config import settings
from app.db import now
from app.deployments import replicas, service
from app.deployments.tables import Replica
from app.models.tables import Model
from app.queue import transaction
from tests.factories import make_model, make_node, make_workspace
from tests.workers import engine_loop, stand_in_engine
from tests.workers.engine_loop import ask, deploy, held, log_of, look, state, turn, until
from workers import process
from workers import replicas as node
from workers.starting import directory_of, draining


@pytest.fixture
def workspace(db: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(settings, "train_python", stand_in_engine.install(tmp_path))
    make_node(db, id=settings.node)
    return make_workspace(db)


@pytest.fixture
def base(db: Session, tmp_path: Path) -> Model:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    storage.put(tmp_path / "model", "models/tiny")
    return make_model(db, name="tiny", artefact="models/tiny", parameters=500_000, size=2_000_000)


@pytest.fixture(autouse=True)
def nothing_left(database: None) -> Iterator[None]:
    yield from engine_loop.clean()


def test_one_life_of_an_engine(db: Session, workspace: Workspace, base: Model) -> None:
    """Starts, answers, survives the node's death, is started anew when it dies, stops."""
    deployment = deploy(db, workspace, base, engine="transformers")
    until(lambda: state(deployment) == "ready")
    _, replica = look(deployment)
    assert (replica.engine, replica.fence, replica.strikes) == ("transformers", 1, 0)
    assert replica.memory is not None
    assert 5 * 2**20 < replica.memory < 2**30
    answer = ask(replica)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert "danlu: loading" in log_of(deployment)
    assert replica.secret not in log_of(deployment)
    assert replica.secret.encode() not in Path(f"/proc/{replica.pid}/cmdline").read_bytes()

    # the node's process dies: another finds the engine by its row, and leaves it alone
    node.known.clear()
    for _ in range(3):
        turn()
        time.sleep(0.3)
    assert look(deployment)[1].pid == replica.pid
    assert ask(replica).status_code == 200

    # the engine dies
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGKILL)
    until(lambda: state(deployment) == "error")
    failed = look(deployment)[1]
    assert failed.error is not None
    assert (failed.error["code"], failed.failures) == ("died", 1)
    assert held(db) == 0
    with transaction() as own:
        own.get_one(Replica, replica.id).retry_at = now()
    until(lambda: state(deployment) == "ready")
    _, again = look(deployment)
    assert (again.fence, again.error) == (2, None)
    assert again.secret != replica.secret
    assert not directory_of(replica.id, 1).exists()

    with transaction() as own:
        service.stop(own, workspace.id, deployment.id)
    until(lambda: state(deployment) == "stopped", 30)
    assert held(db) == 0
    assert again.pid is not None
    assert process.gone(again.pid, again.pid_started or 0.0)
    assert process.attempts() == {}


def test_an_engine_that_hangs_is_found_out(
    db: Session, workspace: Workspace, base: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "BETWEEN_CHECKS", 0.2)
    monkeypatch.setattr(node.health, "QUICK", httpx.Timeout(0.5))
    deployment = deploy(db, workspace, base, engine="transformers")
    until(lambda: state(deployment) == "ready")
    _, replica = look(deployment)
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGSTOP)
    monkeypatch.setattr(node, "GRACE", 1.0)
    until(lambda: state(deployment) == "error", 60)
    assert look(deployment)[1].error["code"] == "unresponsive"
    assert process.gone(replica.pid, replica.pid_started or 0.0)
    with transaction() as own:
        events = [event.params.get("new") for event in service.events(own, deployment.id)]
    assert "unhealthy" in events


def test_draining_leaves_it_wanted(db: Session, workspace: Workspace, base: Model) -> None:
    deployment = deploy(db, workspace, base, engine="transformers")
    until(lambda: state(deployment) == "ready")
    _, replica = look(deployment)
    draining().touch()
    node.drain(settings.node)
    assert state(deployment) == "pending"
    assert look(deployment)[1].failures == 0
    assert process.attempts() == {}
    turn()
    assert look(deployment)[1].pid is None  # nothing starts while the node is being taken down
    draining().unlink()
    until(lambda: state(deployment) == "ready")
    assert look(deployment)[1].fence > replica.fence


def test_a_starter_that_dies_midway_loses_nothing(
    db: Session, workspace: Workspace, base: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process runs, but nobody noted it down: the loop adopts it, and no second one starts."""
    deployment = deploy(db, workspace, base, engine="transformers")
    with monkeypatch.context() as patch:
        patch.setattr(replicas, "mark_started", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            turn()
    replica = look(deployment)[1]
    assert (replica.state, replica.pid) == ("scheduled", None)
    until(lambda: look(deployment)[1].pid is not None, 10)
    until(lambda: state(deployment) == "ready")
    assert list(process.attempts()) == [process.marker(replica.id, 1)]
    assert ask(look(deployment)[1]).status_code == 200


def test_stopped_while_it_starts(db: Session, workspace: Workspace, base: Model) -> None:
    deployment = deploy(db, workspace, base, engine="transformers")
    until(lambda: state(deployment) == "starting" and look(deployment)[1].pid is not None)
    with transaction() as own:
        service.delete(own, workspace.id, deployment.id)
    until(lambda: state(deployment) == "stopped", 30)
    assert process.attempts() == {}
    assert held(db) == 0


def test_what_cannot_start_says_why(
    db: Session,
    workspace: Workspace,
    base: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage.delete("models/tiny")
    lost = deploy(db, workspace, base, engine="transformers", name="lost")
    until(lambda: state(lost) == "error", 10)
    assert look(lost)[1].error["code"] == "artefact_missing"

    broken = "raise ValueError('no such layer')"
    monkeypatch.setattr(settings, "train_python", stand_in_engine.install(tmp_path, broken))
    storage.put(tmp_path / "model", "models/tiny")
    broken_one = deploy(db, workspace, base, engine="transformers", name="broken")
    until(lambda: state(broken_one) == "error", 30)
    error = look(broken_one)[1].error
    assert error is not None
    assert (error["code"], error["params"]) == (
        "engine_failed",
        {"error": "ValueError: no such layer"},
    )

    monkeypatch.setattr(settings, "serve_python", Path("/nowhere/python"))
    missing = deploy(db, workspace, base, engine="vllm", name="missing")
    until(lambda: state(missing) == "error", 10)
    assert look(missing)[1].error["code"] == "no_engine"
    assert held(db) == 0
