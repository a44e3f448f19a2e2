"""Kill each process behind a deployment in turn, the engine's core included: it answers again, the
adapters that its engine carried too, and nothing is left over or killed by mistake.

One `danlu up` with vLLM; the tests go through it in order.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.config import settings
from bench.parts import adapters
from tests.test_up import Up, end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
WORD = "红茶"
AGAIN = 480  # seconds: a deployment answers within it, whatever was killed


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    if not settings.serve_python.exists():
        pytest.skip("the serving environment is not built here")
    base = Path(tempfile.mkdtemp(prefix="danlu-recovery-", dir="/tmp"))
    base.chmod(0o711)
    stack = Up(base)
    stack.start()
    stack.announced()
    yield stack
    end(stack)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def host(up: Up) -> str:
    body = {"name": "plain", "model": "danlu-starter", "engine": "vllm", "max_model_len": 512}
    with up.api() as api:
        made = api.post("/api/v1/deployments", json=body)
        assert made.status_code == 201, made.text
        adapters.wait_for(api, f"/api/v1/deployments/{made.json()['id']}", {"ready"}, 480)
    return str(made.json()["id"])


def ask(up: Up, name: str) -> str | None:
    messages = [{"role": "user", "content": adapters.ASKED}]
    body = {"model": name, "messages": messages, "max_tokens": 8, "temperature": 0}
    try:
        with up.api() as api:
            answer = api.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    return str(answer.json()["choices"][0]["message"]["content"])


def run_of(process: psutil.Process, home: Path) -> str:
    """The attempt that a process of this home belongs to; empty for any other."""
    try:
        environ = process.environ()
    except psutil.Error:
        return ""
    return environ.get("DANLU_RUN", "") if environ.get("DANLU_HOME") == str(home) else ""


def engines(up: Up) -> dict[str, list[psutil.Process]]:
    """The processes of every engine, by attempt, the leader first."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        if (run := run_of(process, up.home)).startswith("rep_"):
            found.setdefault(run, []).append(process)
    return found


def core(members: list[psutil.Process]) -> psutil.Process:
    (found,) = [one for one in members if "EngineCore" in one.name() + " ".join(one.cmdline())]
    return found


def leader(members: list[psutil.Process]) -> psutil.Process:
    (found,) = [one for one in members if os.getsid(one.pid) == one.pid]
    return found


def test_an_adapter_answers_when_its_run_ends(up: Up, host: str) -> None:
    with up.api() as api:
        job = adapters.tune(api, "mood", adapters.dataset(api, WORD))
    up.until(lambda: adapters.ended(up.home, job) is not None, 480)
    up.until(lambda: ask(up, "mood") is not None, 60)  # how soon: bench/serving.py
    assert WORD in (ask(up, "mood") or "")
    assert WORD not in (ask(up, "plain") or "")
    (attempt,) = engines(up)
    with up.api() as api:
        found = api.get(f"/api/v1/deployments/{host}/adapters").json()["data"]
    assert [(one["name"], one["state"]) for one in found] == [("mood", "ready")]
    assert attempt.startswith(found[0]["replicas"][0]["replica"])


@pytest.mark.parametrize("part", ["web", "worker", "node"])
def test_servers_may_die(up: Up, host: str, part: str) -> None:
    """The engine runs on, untouched, and what it carries with it."""
    before = {one.pid for members in engines(up).values() for one in members}
    old = up.pid(part)
    os.killpg(old, signal.SIGKILL)
    up.until(lambda: ask(up, "plain") is not None and ask(up, "mood") is not None, AGAIN)
    up.until(lambda: fresh(up, part, old), AGAIN)
    time.sleep(2)  # in which whoever came back might take the engine for a stranger
    assert {one.pid for members in engines(up).values() for one in members} >= before
    assert WORD in (ask(up, "mood") or "")


def fresh(up: Up, part: str, old: int) -> bool:
    try:
        return up.pid(part) != old
    except ValueError:
        return False


@pytest.mark.parametrize("victim", [leader, core], ids=["server", "core"])
def test_any_process_of_the_engine_may_die(up: Up, host: str, victim) -> None:
    ((attempt, members),) = engines(up).items()
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={"DANLU_HOME": "/somewhere/else", "DANLU_RUN": attempt},
        start_new_session=True,
    )
    os.kill(victim(members).pid, signal.SIGKILL)
    up.until(lambda: attempt not in engines(up), AGAIN)  # nothing of it is left
    up.until(lambda: ask(up, "plain") is not None and ask(up, "mood") is not None, AGAIN)
    assert WORD in (ask(up, "mood") or "")
    assert len(engines(up)) == 1
    assert not any(lives(one) for one in members)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_is_left(up: Up, host: str) -> None:
    with up.api() as api:
        refused = api.delete(f"/api/v1/deployments/{host}")
        assert (refused.status_code, refused.json()["code"]) == (409, "carries_adapters")
        for one in api.get(f"/api/v1/deployments/{host}/adapters").json()["data"]:
            assert api.delete(f"/api/v1/deployments/{one['id']}").is_success
        assert api.delete(f"/api/v1/deployments/{host}").is_success
    up.until(lambda: engines(up) == {}, 120)
    up.stop()
    assert up.processes() == {}
