"""A change of settings under traffic: real processes, and no request is lost."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.config import settings
from app.deployments import editing, service
from app.deployments.states import replicas_of
from app.deployments.tables import Deployment, Replica
from app.models.service import ensure_starter
from app.models.tables import Model
from app.queue import transaction
from tests.factories import make_model, make_node, make_workspace
from tests.jobs.people import principal
from tests.workers import engine_loop, stand_in_engine
from tests.workers.engine_loop import deploy, held, state, until
from workers import process


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


class Callers(threading.Thread):
    """Asks the deployment all the time, as the gateway does: by a route that is a second old."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(daemon=True)
        self.workspace = workspace.id
        self.leaving = threading.Event()
        self.answers: list[str] = []  # replica ids
        self.lost: list[str] = []

    def run(self) -> None:
        known, looked = (), -1.0
        while not self.leaving.is_set():
            if time.monotonic() - looked > 1:
                with transaction() as db:
                    known = service.route(db, self.workspace, "mood").replicas
                looked = time.monotonic()
            for one in known:
                self.ask(one)
            time.sleep(0.02)

    def ask(self, one: Any) -> None:
        body = {"model": "mood", "prompt": "1", "max_tokens": 4}
        key = {"authorization": f"Bearer {one.secret}"}
        try:
            answer = httpx.post(
                f"{one.address}/v1/completions", json=body, headers=key, timeout=60, verify=False
            )
            answer.raise_for_status()
            self.answers.append(one.id)
        except httpx.HTTPError as error:
            self.lost.append(repr(error))


@pytest.fixture
def callers(workspace: Workspace) -> Iterator[Callers]:
    made = Callers(workspace)
    yield made
    made.leaving.set()
    if made.ident:
        made.join(60)


def change(db: Session, workspace: Workspace, deployment: Deployment, **changes: Any) -> None:
    who: Principal = principal(db, workspace)
    db.commit()
    with transaction() as own:
        editing.edit(own, who, deployment.id, changes)


def living(deployment: Deployment) -> list[Replica]:
    with transaction() as db:
        return replicas_of(db, deployment.id)


def only_revision(deployment: Deployment, number: int) -> bool:
    return [(one.revision, one.state) for one in living(deployment)] == [(number, "ready")]


def test_no_request_is_lost(
    db: Session, workspace: Workspace, base: Model, callers: Callers
) -> None:
    deployment = deploy(db, workspace, base, engine="transformers")
    until(lambda: state(deployment) == "ready")
    (old,) = living(deployment)
    callers.start()
    change(db, workspace, deployment, max_model_len=512)
    until(lambda: only_revision(deployment, 2))
    time.sleep(1.1)
    callers.leaving.set()
    callers.join(60)
    (new,) = living(deployment)
    assert callers.lost == []
    assert {old.id, new.id} <= set(callers.answers)
    assert "check" in old.took
    assert "check" in new.took
    assert list(process.attempts()) == [process.marker(new.id, new.fence)]
    assert held(db) == 1


def test_it_waits_for_a_long_answer(
    db: Session, workspace: Workspace, base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is to leave finishes the answer under way, and takes no longer than that."""
    code = stand_in_engine.CODE.replace(
        'count = asked.get("max_tokens", 3)',
        'count = asked.get("max_tokens", 3)\n    if count == 9: await asyncio.sleep(6)',
    )
    monkeypatch.setattr(stand_in_engine, "CODE", code)
    monkeypatch.setattr(settings, "train_python", stand_in_engine.install(tmp_path))
    deployment = deploy(db, workspace, base, engine="transformers", replicas=2)
    until(lambda: [one.state for one in living(deployment)] == ["ready", "ready"])
    _, second = living(deployment)
    found: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: found.append(
            engine_loop.ask(second, "completions", prompt="1", max_tokens=9)
        )
    )
    asking.start()
    with transaction() as own:
        editing.scale(own, workspace.id, deployment.id, 1)
    until(lambda: len(living(deployment)) == 1, 60)
    asking.join(10)
    assert [one.status_code for one in found] == [200]
    assert state(deployment) == "ready"
    assert held(db) == 1


def test_back_when_the_new_one_does_not_start(
    db: Session,
    workspace: Workspace,
    base: Model,
    callers: Callers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployment = deploy(db, workspace, base, engine="transformers")
    until(lambda: state(deployment) == "ready")
    (old,) = living(deployment)
    callers.start()
    broken = "print('Model architectures [Odd] are not supported'); sys.exit(1)"
    monkeypatch.setattr(settings, "train_python", stand_in_engine.install(tmp_path, broken))
    change(db, workspace, deployment, max_model_len=512)
    until(lambda: [one.revision for one in living(deployment)] == [1])
    assert [one.id for one in living(deployment)] == [old.id]
    assert callers.lost == []
    assert list(process.attempts()) == [process.marker(old.id, old.fence)]
    with transaction() as own:
        told = own.get_one(Deployment, deployment.id)
        assert (told.revision, told.max_model_len, told.state) == (1, 2048, "ready")


@pytest.mark.slow
@pytest.mark.timeout(800)  # an engine starts, and another beside it
def test_with_vllm(
    db: Session, workspace: Workspace, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real engine: other arguments, a shorter context, traffic all the time."""
    model = ensure_starter(db)
    deployment = deploy(db, workspace, model, engine="vllm")
    until(lambda: state(deployment) == "ready", 480)
    callers.start()
    change(
        db, workspace, deployment, max_model_len=256,
        arguments={"max_num_seqs": 4, "enable_prefix_caching": False, "seed": 7},
    )  # fmt: skip
    until(lambda: only_revision(deployment, 2), 480)
    (new,) = living(deployment)
    assert set(new.took) >= {"fetch", "start", "load", "check"}
    long = engine_loop.ask(new, "completions", prompt="1", max_tokens=300)
    assert long.status_code == 400
    assert callers.lost == []
    assert callers.answers[-1] == new.id
