"""The rules of every domain once more, on Debian's PostgreSQL and Redis instead of the wheels'."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app import embedded

ROOT = Path(__file__).resolve().parent.parent
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
REDIS = shutil.which("redis-server")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (POSTGRES and REDIS) and not os.environ.get("CI"),
        reason="needs Debian's postgresql and redis-server; .ci/run installs them",
    ),
]


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """Both servers on sockets in a directory of their own."""
    assert POSTGRES
    assert REDIS
    base = Path(tempfile.mkdtemp(prefix="danlu-debian-", dir="/tmp"))
    base.chmod(0o711)
    at = embedded.place(base)  # for its directories and its user
    data, sockets = base / "data", at.sockets
    embedded.owned_directory(data, at.user)
    access = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
    subprocess.run(
        embedded.dropped(at, POSTGRES / "initdb", "-D", data, *access), check=True, cwd="/"
    )
    flags = [
        "-c",
        "listen_addresses=",
        "-c",
        f"unix_socket_directories={sockets}",
        "-c",
        "fsync=off",
    ]
    postgres = subprocess.Popen(
        embedded.dropped(at, POSTGRES / "postgres", "-D", data, *flags), cwd=data
    )
    redis = subprocess.Popen(
        embedded.dropped(at, REDIS, "--port", "0", "--unixsocket", sockets / "redis.sock"),
        cwd=at.data / "valkey",
    )
    try:
        server = f"host={sockets} user=postgres dbname=postgres"
        end = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(server).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.1)
        yield {
            "DANLU_TEST_DATABASE_URL": f"postgresql+psycopg://postgres@/postgres?host={sockets}",
            "DANLU_TEST_REDIS_URL": f"unix://{sockets}/redis.sock",
        }
    finally:
        embedded.stop(redis, signal.SIGTERM)
        embedded.stop(postgres, signal.SIGINT)
        shutil.rmtree(base)


def test_services_and_migrations(urls: dict[str, str]) -> None:
    files = sorted(str(path) for path in ROOT.glob("tests/**/test_service*.py"))
    assert files
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/test_migrations.py", *files],
        cwd=ROOT,
        env=os.environ | urls,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
