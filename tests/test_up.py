"""`danlu up`, for real: it starts, stops, comes back, and survives the death of each of its parts."""

import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app import embedded
from app.config import ROOT, settings
from tests.stack import environment, free_port

PARTS = ("postgres", "valkey", "web", "worker", "node", "beat")


class Up:
    """A home, and the `danlu up` that runs in it."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = base / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, seconds: float = 90) -> float:
        """Start it and wait for /readyz; how long that took, in seconds."""
        began = time.monotonic()
        self.process = self.launch(*command)
        while not self.ready():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() - began < seconds, self.told()
            time.sleep(0.05)
        return time.monotonic() - began

    def launch(self, *command: str, **extra: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as out:
            return subprocess.Popen(
                command or (sys.executable, "-m", "app.up"),
                cwd=ROOT,
                env=environment(self.home, self.port, **extra),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> bool:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            line.request("GET", "/readyz")
            return line.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            line.close()

    def announced(self) -> None:
        """Wait until it says that all is up."""
        self.until(lambda: "已就绪" in self.told(), 120)

    def until(self, true, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.told()
            time.sleep(0.05)

    def told(self) -> str:
        logs = sorted((self.home / "logs").glob("*.log"))
        tails = [f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs]
        return "\n".join([self.output.read_text(), *tails])

    def stop(self, kind: signal.Signals = signal.SIGTERM, seconds: float = 60) -> float:
        """Signal it; how long it took to leave."""
        assert self.process
        began = time.monotonic()
        self.process.send_signal(kind)
        self.process.wait(seconds)
        return time.monotonic() - began

    def first(self) -> dict[str, str]:
        return json.loads((self.home / "first-run.json").read_text())

    def api(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.first()['api_key']}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False)

    def processes(self) -> dict[int, str]:
        """Everything that runs for this home: pid → command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (
                    f"DANLU_HOME={self.home}\0".encode() in environ + b"\0"
                    or str(self.home) in command
                ):
                    found[int(entry.name)] = command
            except OSError:
                continue
        return found

    def pid(self, part: str) -> int:
        """The main process of one of PARTS."""
        server = {"postgres": "postgres", "valkey": "valkey-server"}.get(part)
        if server:
            pids = embedded.leftovers(self.home / part, server)
        else:
            words = {"web": "uvicorn", "node": "workers.node"}
            words |= {part: f"workers.celery {part}" for part in ("worker", "beat")}
            pids = (pid for pid, command in self.processes().items() if words[part] in command)
        return min(pids)


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="danlu-up-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def up(base: Path) -> Iterator[Up]:
    stack = Up(base)
    yield stack
    end(stack)


def end(stack: Up) -> None:
    if stack.process and stack.process.poll() is None:
        stack.process.terminate()
        try:
            stack.process.wait(90)
        except subprocess.TimeoutExpired:
            stack.process.kill()


def test_a_taken_port_is_said_before_anything_starts(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", up.port))
        taken.listen()
        assert up.launch().wait(20) == 1
    said = up.output.read_text().splitlines()
    assert len(said) == 1
    assert str(up.port) in said[0]
    assert not (up.home / "postgres").exists()
    assert up.processes() == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_first_start_second_start_and_a_clean_end(up: Up) -> None:
    up.start()
    up.announced()

    # the sign-in
    file = up.home / "first-run.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = up.first()
    assert set(first) == {"url", "email", "password", "api_key", "workspace"}
    assert first["url"] == up.url
    said = up.output.read_text()
    assert up.url in said
    assert first["password"] in said
    assert httpx.get(f"{up.url}/healthz").status_code == 200
    assert httpx.get(f"{up.url}/api/v1/models").status_code == 401
    with up.api() as api:
        models = api.get("/api/v1/models").json()["data"]
        assert [model["name"] for model in models] == ["danlu-starter"]
        made = api.post(
            "/api/v1/datasets",
            data={"name": "kept"},
            files={"file": ("a.jsonl", ONE_ROW)},
        )
        assert made.status_code == 201

    # one supervisor per home
    second = up.launch()
    up.output.unlink()
    assert second.wait(20) == 1

    # nothing is left of it
    assert set(PARTS) == {part for part in PARTS if up.pid(part)}
    up.stop()
    assert up.process
    assert up.process.returncode == 0
    assert up.processes() == {}

    # and back again
    up.start()
    assert up.first() == first
    with up.api() as api:
        assert api.get(f"/api/v1/datasets/{made.json()['id']}").json()["name"] == "kept"
    up.announced()
    up.stop(signal.SIGINT)
    assert up.processes() == {}


ONE_ROW = json.dumps(
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_part_may_be_killed(up: Up) -> None:
    up.start()
    up.announced()
    for part in PARTS:
        old = up.pid(part)
        os.kill(old, signal.SIGKILL)
        up.until(lambda part=part, old=old: fresh(up, part, old), 60)
        up.until(up.ready, 60)
    with up.api() as api:
        assert api.get("/api/v1/models").status_code == 200
        made = api.post("/api/v1/datasets", files={"file": ("a.jsonl", ONE_ROW)}).json()
        up.until(lambda: status(api, made["id"]) == "draft", 60)  # a worker took the task
    up.stop()
    assert up.processes() == {}


def fresh(up: Up, part: str, old: int) -> bool:
    try:
        return up.pid(part) != old
    except ValueError:
        return False


def status(api: httpx.Client, dataset: str) -> str:
    return api.get(f"/api/v1/datasets/{dataset}").json()["status"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_supervisor_is_succeeded_by_the_next(up: Up) -> None:
    up.start()
    up.announced()
    first = up.first()
    up.stop(signal.SIGKILL)
    up.start()
    up.announced()
    assert up.first() == first
    assert len([command for command in up.processes().values() if "uvicorn" in command]) == 1
    up.stop()
    assert up.processes() == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_homes_run_side_by_side(up: Up) -> None:
    other_base = up.home.parent / "other"
    other_base.mkdir(mode=0o711)
    other = Up(other_base)
    try:
        up.process = up.launch()
        other.start()
        up.until(up.ready, 120)
        assert up.first()["workspace"] != other.first()["workspace"]
        key = {"Authorization": f"Bearer {other.first()['api_key']}"}
        assert httpx.get(f"{other.url}/api/v1/models", headers=key).status_code == 200
        assert httpx.get(f"{up.url}/api/v1/models", headers=key).status_code == 401
        other.announced()
        other.stop()
        assert up.ready()
    finally:
        end(other)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_make_hands_the_signal_on(up: Up, kind: signal.Signals) -> None:
    """`-o`: the environments are there, whatever their age says."""
    up.start("make", "-o", "environments", "up")
    up.announced()
    if kind == signal.SIGINT:
        os.killpg(up.process.pid, kind)  # what a terminal does
        up.process.wait(60)
    else:
        up.stop(kind)
    up.until(lambda: up.processes() == {}, 20)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_database_that_cannot_be_used_ends_it_with_a_reason(up: Up) -> None:
    (up.home / "postgres").mkdir(parents=True)
    up.home.chmod(0o711)
    (up.home / "postgres" / "PG_VERSION").write_text("12\n")
    assert up.launch().wait(60) == 1
    assert "Postgres 12" in up.output.read_text()
    assert up.processes() == {}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_parts_run_apart_on_servers_of_ones_own(up: Up, database: None) -> None:
    """What docker-compose.yml starts."""
    urls = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}
    run = (sys.executable, "-m", "app.cli.main", "up", "--only")
    up.process = up.launch(*run, "web", **urls)
    up.until(up.ready, 120)
    up.announced()
    assert up.first()["url"] == up.url
    assert "Uvicorn running" in up.output.read_text()  # a container's log is its output
    assert not (up.home / "postgres").exists()

    other = Up(up.home.parent)
    other.output = up.home.parent / "other-output"
    other.process = other.launch(*run, "worker,beat", **urls)
    try:
        other.announced()
        with up.api() as api:
            made = api.post("/api/v1/datasets", files={"file": ("a.jsonl", ONE_ROW)}).json()
            up.until(lambda: status(api, made["id"]) == "draft", 60)
        refused = other.launch(*run, "web,node", **urls)
        assert refused.wait(20) == 1
        assert not [text for text in up.processes().values() if "workers.node" in text]
    finally:
        end(other)
    assert up.ready()


def test_parts_need_servers_that_others_reach(up: Up) -> None:
    assert up.launch(sys.executable, "-m", "app.up", "--only", "web").wait(20) == 1
    assert "DATABASE_URL" in up.output.read_text()
    assert up.launch(sys.executable, "-m", "app.up", "--only", "all").wait(20) == 1
    assert not up.home.exists()
