"""Kill any part of a running Danlu: the job goes on, each step counts once, nothing is left over.

One `danlu up` with a real trainer and a real engine; the tests go through it in order.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis
from sqlalchemy import Engine, create_engine, text

from app import embedded
from tests.stack import SAMPLES
from tests.test_up import Up, end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
FINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    base = Path(tempfile.mkdtemp(prefix="danlu-chaos-", dir="/tmp"))
    base.chmod(0o711)
    stack = Up(base)
    stack.start()
    stack.announced()
    yield stack
    end(stack)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def database(up: Up) -> Engine:
    return create_engine(embedded.place(up.home).database_url, pool_pre_ping=True)


@pytest.fixture(scope="module")
def dataset(up: Up) -> str:
    rows = (SAMPLES / "reviews-train.jsonl").read_bytes().splitlines(keepends=True)[:640]
    with up.api() as api:
        file = ("reviews.jsonl", b"".join(rows))
        made = api.post("/api/v1/datasets", data={"name": "reviews"}, files={"file": file})
        assert made.status_code == 201, made.text + up.told()
        published = api.post(f"/api/v1/datasets/{made.json()['id']}/publish")
        assert published.is_success, up.told()
    return str(made.json()["id"])


@pytest.fixture(scope="module")
def served(up: Up) -> str:
    """A deployment that must keep answering: the name at /v1."""
    body = {"name": "steady", "model": "danlu-starter", "engine": "transformers", "replicas": 1}
    with up.api() as api:
        made = api.post("/api/v1/deployments", json=body)
        assert made.status_code == 201, made.text + up.told()
    wait_for(up, f"/api/v1/deployments/{made.json()['id']}", "ready", seconds=180)
    return str(made.json()["id"])


def get(up: Up, path: str) -> Any:
    """The answer, or {} while the web process is being started again."""
    try:
        with up.api() as api:
            return api.get(path).raise_for_status().json()
    except httpx.HTTPError:
        return {}


def wait_for(up: Up, path: str, *states: str, seconds: float = 300) -> Any:
    found: list[Any] = [{}]

    def there() -> bool:
        found[0] = get(up, path) or found[0]
        return found[0].get("state") in states

    up.until(there, seconds)
    return found[0]


def launch(up: Up, dataset: str, steps: int, **hyperparameters: Any) -> str:
    body = {
        "name": f"chaos {steps}",
        "model": "danlu-starter",
        "dataset": dataset,
        "stage": "sft",
        "method": "lora",
        "hyperparameters": {"max_steps": steps, "save_steps": 5, "batch_size": 2} | hyperparameters,
    }
    with up.api() as api:
        made = api.post("/api/v1/jobs", json=body)
    assert made.status_code == 201, made.text + up.told()
    return str(made.json()["id"])


def at_step(up: Up, job: str, step: int) -> None:
    up.until(lambda: get(up, f"/api/v1/jobs/{job}").get("step", 0) >= step, 480)


def finished(up: Up, job: str) -> Any:
    found = wait_for(up, f"/api/v1/jobs/{job}", *FINAL, seconds=600)
    assert found["state"] == "succeeded", f"{found}\n{up.told()}"
    return found


def answers(up: Up) -> bool:
    """Whether the deployment answers a question, through the gateway."""
    body = {"model": "steady", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
    try:
        with up.api() as api:
            return api.post("/v1/chat/completions", json=body).status_code == 200
    except httpx.HTTPError:
        return False


def runs(up: Up) -> dict[str, int]:
    """The leader of every run of this home, by attempt."""
    found = {}
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            leader = os.getsid(process.pid) == process.pid
        except (psutil.Error, ProcessLookupError):
            continue
        if environ.get("DANLU_HOME") == str(up.home) and "DANLU_RUN" in environ and leader:
            found[environ["DANLU_RUN"]] = process.pid
    return found


def check(database: Engine, job: str, steps: int, fences: set[int]) -> dict[int, int]:
    """Each step stands there once, every log without a gap, nothing held; step → fence."""
    with database.connect() as connection:
        rows = connection.execute(
            text("SELECT step, fence, data FROM job_metrics WHERE job_id = :job ORDER BY step"),
            {"job": job},
        ).all()
        chunks = connection.execute(
            text(
                'SELECT fence, "offset", octet_length(data) FROM job_logs WHERE job_id = :job '
                'ORDER BY fence, "offset"'
            ),
            {"job": job},
        ).all()
        held = connection.execute(
            text("SELECT count(*) FROM leases WHERE owner_id = :job AND released_at IS NULL"),
            {"job": job},
        ).scalar_one()
    assert [row.step for row in rows] == list(range(1, steps + 1))
    assert all("loss" in row.data for row in rows)
    assert {row.fence for row in rows} == fences
    assert held == 0
    ends: dict[int, int] = {}
    for fence, offset, length in chunks:
        assert offset == ends.get(fence, 0)
        ends[fence] = offset + length
    assert set(ends) == fences
    return {row.step: row.fence for row in rows}


def kill(up: Up, part: str) -> None:
    """SIGKILL to all of it, and wait for its successor."""
    old = up.pid(part)
    if part in ("postgres", "valkey"):
        os.kill(old, signal.SIGKILL)
    else:
        os.killpg(old, signal.SIGKILL)

    def fresh() -> bool:
        try:
            return up.pid(part) != old
        except ValueError:
            return False

    up.until(fresh, 120)


class Leash(threading.Thread):
    """Lets a trainer go only so far, so that it is at work whenever something is killed."""

    def __init__(self, up: Up, attempt: str) -> None:
        super().__init__(daemon=True)
        self.metrics = up.home / "runs" / attempt / "metrics.jsonl"
        self.trainer = psutil.Process(runs(up)[attempt])
        self.allowed: int | None = 0
        self.start()

    def run(self) -> None:
        held = False
        while self.allowed is not None:
            far = len(self.metrics.read_bytes().splitlines()) >= self.allowed
            if far != held:
                held = far
                (self.trainer.suspend if held else self.trainer.resume)()
            time.sleep(0.02)
        self.trainer.resume()

    def release(self) -> None:
        self.allowed = None
        self.join()


PARTS = ("worker", "node", "beat", "valkey", "postgres", "web", "node", "postgres")


def test_any_server_may_die(up: Up, database: Engine, dataset: str, served: str) -> None:
    assert answers(up)
    engines = runs(up)
    job = launch(up, dataset, 300)
    at_step(up, job, 3)
    leash = Leash(up, f"{job}-1")
    for number, part in enumerate(PARTS, start=1):
        leash.allowed = 30 * number
        kill(up, part)
        if part == "valkey":
            flush(up)
        up.until(up.ready, 120)
        up.until(lambda: answers(up), 120)
        at_step(up, job, 30 * number - 10)
        assert get(up, f"/api/v1/jobs/{job}")["state"] == "running"
    leash.release()
    finished(up, job)
    check(database, job, 300, {1})
    up.until(lambda: runs(up) == engines, 20)  # the engine all the time, the trainer no more


def flush(up: Up) -> None:
    path = embedded.place(up.home).redis_url.removeprefix("unix://")
    end = time.monotonic() + 30
    while True:
        try:
            Redis(unix_socket_path=path).flushall()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return


def test_a_killed_trainer_resumes(up: Up, database: Engine, dataset: str) -> None:
    job = launch(up, dataset, 60)
    at_step(up, job, 20)
    os.kill(runs(up)[f"{job}-1"], signal.SIGKILL)
    found = finished(up, job)
    assert found["retries"] == 1
    fence = check(database, job, 60, {1, 2})
    assert fence[15] == 1, "it began again at the start"
    assert fence[60] == 2


def test_a_killed_engine_comes_back(up: Up, served: str) -> None:
    (attempt, pid), *others = runs(up).items()
    assert not others
    os.kill(pid, signal.SIGKILL)
    up.until(lambda: runs(up).keys() - {attempt}, 240)  # under a new fence
    up.until(lambda: answers(up), 360)
    assert get(up, f"/api/v1/deployments/{served}")["state"] == "ready"
    assert attempt not in runs(up)
    assert len(runs(up)) == 1


def test_a_killed_supervisor_is_succeeded(
    up: Up, database: Engine, dataset: str, served: str
) -> None:
    job = launch(up, dataset, 150)
    at_step(up, job, 5)
    before = runs(up)
    assert len(before) == 2
    up.stop(signal.SIGKILL)
    time.sleep(2)
    assert runs(up) == before, "runs must outlive the supervisor"
    up.start()
    up.announced()
    up.until(lambda: answers(up), 120)
    assert before.items() <= runs(up).items() or get(up, f"/api/v1/jobs/{job}")["state"] in FINAL
    finished(up, job)
    check(database, job, 150, {1})


def test_stopped_and_started_again(up: Up, database: Engine, dataset: str, served: str) -> None:
    job = launch(up, dataset, 150)
    at_step(up, job, 5)
    assert up.stop() < 60
    assert up.processes() == {}
    assert runs(up) == {}
    up.start()
    up.announced()
    found = finished(up, job)
    assert found["retries"] == 0
    fence = check(database, job, 150, {1, 2})
    assert fence[5] == 1, "the checkpoint of the stop was not used"
    wait_for(up, f"/api/v1/deployments/{served}", "ready", seconds=180)
    up.until(lambda: answers(up), 60)


def test_nothing_is_left(up: Up, dataset: str, served: str) -> None:
    job = launch(up, dataset, 10_000)
    at_step(up, job, 3)
    with up.api() as api:
        assert api.post(f"/api/v1/jobs/{job}/cancel").is_success
        assert api.delete(f"/api/v1/deployments/{served}").is_success
    wait_for(up, f"/api/v1/jobs/{job}", "cancelled", seconds=60)
    up.until(lambda: runs(up) == {}, 120)
    assert get(up, "/api/v1/devices")["data"]
    up.until(lambda: not any(one["used"] for one in get(up, "/api/v1/devices")["data"]), 10)
    up.stop()
    assert up.processes() == {}
