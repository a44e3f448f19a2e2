"""A whole Danlu for tests: `danlu up` in a temporary home, started once for all that share it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import ROOT

SAMPLES = ROOT / "app" / "datasets" / "samples"
FINAL = ("succeeded", "failed", "cancelled", "ready", "error", "published")


@dataclass
class Stack:
    """A running Danlu: where, who, and the process that holds it."""

    home: Path
    process: subprocess.Popen[bytes]
    url: str
    email: str
    password: str
    api_key: str
    workspace: str

    def api(self) -> httpx.Client:
        """Without TLS, so without the certificates, which take 20 ms to read."""
        headers = {"authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False)

    def wait(self, path: str, *, until: tuple[str, ...] = FINAL, seconds: float = 240) -> Any:
        """Poll a noun at `/api/v1` until its state is one of `until`; the last answer."""
        end = time.monotonic() + seconds
        with self.api() as api:
            while True:
                found = api.get(f"/api/v1{path}").raise_for_status().json()
                if found.get("state", found.get("status")) in until:
                    return found
                assert time.monotonic() < end, f"{path} is still {found}\n{self.tail()}"
                time.sleep(0.3)

    def tail(self) -> str:
        """The end of every log, for a failed test to show."""
        logs = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(
            f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs
        )


def let_go(stack: Stack, tuned: str) -> None:
    """Delete what a call of the tuned model `ft:…` has deployed; raises AssertionError if nothing."""
    model = f"mdl_{tuned.split(':')[4]}"
    with stack.api() as api:
        listed = api.get("/api/v1/deployments").raise_for_status().json()["data"]
        found = [one["id"] for one in listed if one["model"] == model]
        assert len(found) == 1, listed
        api.delete(f"/api/v1/deployments/{found[0]}").raise_for_status()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, port: int, **extra: str) -> dict[str, str]:
    """The tests' own, without what conftest.py set for the tests' own servers."""
    dropped = ("DANLU_", "DATABASE_URL", "REDIS_URL", "PGOPTIONS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"DANLU_HOME": str(home), "DANLU_PORT": str(port)} | extra


def start(home: Path, port: int, **extra: str) -> Stack:
    """`danlu up`; returns when /readyz answers. Raises AssertionError with the logs if not."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", "up"],
        cwd=ROOT,
        env=environment(home, port, **extra),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 180
    while True:
        try:
            if httpx.get(f"{url}/readyz", timeout=2, verify=False).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        logs = "".join(log.read_text()[-1500:] for log in (home / "logs").glob("*.log"))
        assert process.poll() is None, logs
        assert time.monotonic() < end, logs
        time.sleep(0.1)
    first = json.loads((home / "first-run.json").read_text())
    return Stack(
        home, process, url, *(first[key] for key in ("email", "password", "api_key", "workspace"))
    )


def stop(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGTERM)
    try:
        stack.process.wait(60)
    except subprocess.TimeoutExpired:
        stack.process.kill()
        raise


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One Danlu for every test that wants the whole of it. Leave it as you found it."""
    home = Path(tempfile.mkdtemp(prefix="danlu-stack-", dir="/tmp"))
    home.chmod(0o711)
    running = start(home, free_port())
    try:
        yield running
    finally:
        stop(running)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def served(stack: Stack) -> str:
    """The starter model, deployed on vLLM: its name at /v1."""
    with stack.api() as api:
        made = api.post(
            "/api/v1/deployments",
            json={
                "name": "starter",
                "model": "danlu-starter",
                "engine": "vllm",
                "replicas": 1,
                "arguments": {"tool_call_parser": "hermes"},  # or it refuses tools
            },
        )
        assert made.status_code == 201, made.text
    found = stack.wait(f"/deployments/{made.json()['id']}", until=("ready", "error"))
    assert found["state"] == "ready", f"{found}\n{stack.tail()}"
    return "starter"
