"""A whole stack in a temporary home, for as long as a command needs one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

STARTS_WITHIN = 120.0  # seconds
STOPS_WITHIN = 90.0


class Failed(Exception):
    """Why a command could not do what it says."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def own_stack(tell: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """`danlu up` in a home that is deleted afterwards: its address and an API key."""
    base = Path(tempfile.mkdtemp(prefix="danlu-demo-", dir="/tmp"))
    base.chmod(0o711)
    home, log = base / "home", base / "up.log"
    kept = {name: value for name, value in os.environ.items() if name not in OVERRIDDEN}
    env = kept | {"DANLU_HOME": str(home), "DANLU_PORT": str(free_port())}
    tell(f"Starting a stack of its own in {home}")
    with log.open("wb") as out:
        stack = subprocess.Popen(
            [sys.executable, "-m", "app.up"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait(stack, home, log)
    finally:
        tell("Stopping it")
        stack.send_signal(signal.SIGTERM)
        try:
            stack.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            stack.kill()
        shutil.rmtree(base, ignore_errors=True)


# Of the caller's own stack, if there is one: this one is apart from it.
OVERRIDDEN = {
    "DATABASE_URL",
    "REDIS_URL",
    "DANLU_STORE",
    "DANLU_HOST",
    "DANLU_PUBLIC_URL",
    "DANLU_TRUSTED_PROXIES",
    "DANLU_NODE",
    "DANLU_NODE_HOST",
}


def wait(stack: subprocess.Popen[bytes], home: Path, log: Path) -> tuple[str, str]:
    """The address and key once it is ready. Raises Failed with the end of its log."""
    end = time.monotonic() + STARTS_WITHIN
    while stack.poll() is None and time.monotonic() < end:
        try:
            first = json.loads((home / "first-run.json").read_text())
            if httpx.get(f"{first['url']}/readyz", timeout=5).is_success:
                return first["url"], first["api_key"]
        except (OSError, httpx.HTTPError, ValueError):
            pass
        time.sleep(0.2)
    raise Failed(f"The stack did not start:\n{log.read_text(errors='replace')[-2000:]}")
