"""The code on a deployment's page, run as pasted: from the page, through /v1, to an engine."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import User, Workspace
from app.config import settings
from app.deployments.samples import QUESTION, samples
from app.deployments.tables import Deployment
from tests import factories
from tests.workers import engine_loop, stand_in_engine
from tests.workers.engine_loop import deploy, state, until
from workers.replicas import free_port


@pytest.fixture
def web(database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The console on a port of its own; its address."""
    from app.main import app

    monkeypatch.setattr(settings, "port", free_port())
    server = uvicorn.Server(
        uvicorn.Config(app, port=settings.port, http="app.protocol:Protocol", log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield settings.url
    server.should_exit = True
    thread.join()


@pytest.fixture
def user(db: Session) -> User:
    return factories.make_user(db)


@pytest.fixture
def workspace(db: Session, user: User) -> Workspace:
    factories.make_node(db, id=settings.node)
    return factories.make_workspace(db, owner=user)


@pytest.fixture
def deployment(
    db: Session, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """Ready, served by the stand-in, called `mood-2.1`."""
    monkeypatch.setattr(settings, "train_python", stand_in_engine.install(tmp_path))
    (tmp_path / "model").mkdir()
    storage.put(tmp_path / "model", "models/tiny")
    model = factories.make_model(db, artefact="models/tiny")
    around = engine_loop.clean()
    next(around)
    made = deploy(db, workspace, model, name="mood-2.1", engine="transformers")
    until(lambda: state(made) == "ready")
    yield made
    next(around, None)


def test_each_works_as_pasted(
    db: Session, web: str, user: User, workspace: Workspace, deployment: Deployment, tmp_path: Path
) -> None:
    key = factories.make_key(db, workspace, user)
    db.commit()
    cookie, token = factories.make_sign_in(db, user, workspace)
    db.commit()
    page = httpx.get(f"{web}/deployments/{deployment.id}", cookies={cookie: token})
    code = BeautifulSoup(page.text, "lxml").select('[data-testid="deploy-code"] pre code')
    shown = [block.text for block in code]
    assert shown == [sample.text for sample in samples("mood-2.1")]
    assert all(f"{web}/v1" in text and key not in text for text in shown)
    python, java, curl = shown

    env = {"DANLU_API_KEY": key, "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def run(*argv: str | Path) -> str:
        done = subprocess.run(
            argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "sample.py").write_text(python)
    assert run(sys.executable, "sample.py") == "ab ab ab \n"
    answer = json.loads(run("sh", "-c", curl))
    assert answer["choices"][0]["message"]["content"] == "ab ab ab "
    assert answer["model"] == "mood-2.1"
    if shutil.which("java"):
        (tmp_path / "Sample.java").write_text(java)
        answer = json.loads(run("java", "Sample.java"))
        assert answer["usage"]["completion_tokens"] == 3


def test_what_they_send_is_what_they_say() -> None:
    python, java, curl = (sample.text for sample in samples("a_b-c.d"))
    body = {"model": "a_b-c.d", "messages": [{"role": "user", "content": QUESTION}]}
    assert json.loads(curl.split("-d '")[1].rstrip().rstrip("'")) == body
    literal = java.split("String body = ")[1].split(";\n")[0]
    assert json.loads(json.loads(literal)) == body
    compile(python, "sample.py", "exec")
    assert "dk-" not in python + java + curl
