"""The platform's own processes, started by a test as `danlu up` starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config import ROOT, settings

WORKER = "celery -A workers.celery worker -c 2 --disable-prefetch --pool prefork -l INFO"
WORKER += f" --without-gossip --without-mingle -Q control,node.{settings.node}"
BEAT = "celery -A workers.celery beat -l WARNING --pidfile="
NODE = "workers.node"


@contextmanager
def running(command: str, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m command`, ended by SIGTERM, or by SIGKILL where that does not help."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=ROOT,
            env=os.environ | {"DANLU_SERVE_PYTHON": "/none"} | env,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def kill(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all of it: nothing of it gets to say a word."""
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def wait_for(condition: Callable[[], object], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "nothing logged"
        time.sleep(0.05)
