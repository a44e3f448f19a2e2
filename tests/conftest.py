"""One Postgres and one Valkey for the whole session; every test starts with them empty.

The settings are made before anything imports `app.config`. Servers start with the first test
that asks for them. DANLU_TEST_DATABASE_URL and DANLU_TEST_REDIS_URL name others to use instead:
they are emptied without asking.
"""

import gc
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HOME = Path(tempfile.mkdtemp(prefix="danlu-test-", dir="/tmp"))
HOME.chmod(0o711)  # the embedded servers run as another user when the tests run as root

for name in [name for name in os.environ if name.startswith("DANLU_")]:
    if not name.startswith(("DANLU_TEST_", "DANLU_TORCH_")):
        del os.environ[name]

from app import embedded  # noqa: E402 - it reads no settings

AT = embedded.place(HOME)
os.environ |= {
    "DANLU_HOME": str(HOME),
    "DATABASE_URL": os.environ.get("DANLU_TEST_DATABASE_URL") or AT.database_url,
    "REDIS_URL": os.environ.get("DANLU_TEST_REDIS_URL") or AT.redis_url,
    "PGOPTIONS": "-c lock_timeout=20s",  # a deadlock between test and app fails, not hangs
    "HF_HUB_OFFLINE": "1",
}

import pytest  # noqa: E402
from argon2 import PasswordHasher  # noqa: E402
from sqlalchemy import Connection, Engine, text  # noqa: E402
from sqlalchemy.exc import OperationalError  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

import app.queue  # noqa: E402
from app.accounts import passwords  # noqa: E402
from app.accounts.tables import User, Workspace  # noqa: E402
from app.config import ROOT, settings  # noqa: E402
from app.db import engine  # noqa: E402
from app.tables import Base  # noqa: E402
from tests import factories  # noqa: E402
from tests.buckets import bucketed, s3  # noqa: E402, F401 - fixtures for every test
from tests.stack import served, stack  # noqa: E402, F401 - fixtures for every test

passwords.hasher = PasswordHasher(time_cost=1, memory_cost=1024)  # whose cost no test is about


class Client(TestClient):
    """A client that remembers as whom it is signed in. Follows no redirects."""

    user: User
    workspace: Workspace
    key: str = ""  # of the `api` fixture


# -- on several cores --------------------------------------------------------------------


class ByFile(LoadScopeScheduling):
    """A file is one process's, and so are all that want the whole of Danlu: it starts once.

    What takes minutes comes first, so that no process waits for the other's last file.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid.partition("::")[0])

    def schedule(self) -> None:
        if self.collection is None:
            scopes = set(map(self._split_scope, next(iter(self.registered_collections.values()))))
            self.workqueue.update((one, {}) for one in LONGEST if one in scopes)
        super().schedule()  # fills these and puts the others behind them


LONGEST = (
    "stack",
    "tests/datasets/containers/test_malformed.py",
    "tests/test_containers.py",
    "tests/workers/test_stages_preferences.py",
    "tests/workers/test_recovery.py",
    "tests/nodework/test_two_nodes.py",
    "tests/workers/test_engines.py",
    "tests/workers/test_train_script.py",
    "tests/test_full_disk.py",
    "tests/workers/test_rolling.py",
    "tests/backups/test_upgrade.py",
    "tests/workers/test_hot.py",
    "tests/test_debian.py",
)


@cache
def scope(file: str) -> str:
    wants = re.search(r"def \w+\([^)]*\b(stack|served)\b", (ROOT / file).read_text())
    return "stack" if wants else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


# -- servers -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def servers() -> Iterator[None]:
    """Running servers, migrated to head."""
    started = []
    try:
        if not os.environ.get("DANLU_TEST_DATABASE_URL"):
            postgres = embedded.start_postgres(AT, HOME / "postgres.log", sync=False)
            started.append((postgres, signal.SIGINT))
            wait(lambda: embedded.postgres_ready(AT), postgres.poll)
        if not os.environ.get("DANLU_TEST_REDIS_URL"):
            valkey = embedded.start_valkey(AT, HOME / "valkey.log")
            started.append((valkey, signal.SIGTERM))
            wait(lambda: embedded.valkey_ready(AT), valkey.poll)
        migrate()
        yield
    finally:
        engine().dispose()
        for process, kind in started:
            embedded.stop(process, kind)


def wait(ready: Callable[[], bool], exit_status: Callable[[], int | None]) -> None:
    end = time.monotonic() + 30
    while not ready():
        assert exit_status() is None, "".join(log.read_text() for log in HOME.glob("*.log"))
        assert time.monotonic() < end, "a server did not answer within 30 s"
        time.sleep(0.02)


def migrate() -> None:
    from alembic import command
    from alembic.config import Config

    command.upgrade(Config(toml_file="pyproject.toml"), "head")


def pytest_collection_finish() -> None:
    """What was collected stays: the collector need not go through it in every test."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    if AT.sockets.parent != AT.data:
        shutil.rmtree(AT.sockets, ignore_errors=True)
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def database(servers: None) -> None:
    """Empty tables, an empty broker, an empty store."""
    quiet()
    empty()
    app.queue.redis().flushdb()
    for directory in (settings.runs, settings.cache, settings.spool, settings.uploads):
        shutil.rmtree(directory, ignore_errors=True)
    shutil.rmtree(settings.store_url, ignore_errors=True)


def quiet() -> None:
    """Wait until the threads that the test before has left are through with their transactions."""
    end = time.monotonic() + 2
    while look(OTHERS) != [0] and time.monotonic() < end:
        time.sleep(0.01)


OTHERS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"""


def empty() -> None:
    """Delete what a test has left, and count from 1 again. Truncating all of them takes thirty times
    as long, and there are thousands of tests.
    """
    names = filled()
    with engine().begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers
        for name in names:
            connection.execute(text(f'DELETE FROM "{name}"'))
        for sequence in connection.scalars(text(COUNTING)):
            connection.execute(text(f'ALTER SEQUENCE "{sequence}" RESTART'))


COUNTING = "SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL"
LOOK = "IF EXISTS (SELECT FROM \"{0}\") THEN RETURN NEXT '{0}'; END IF;"
FILLED = (
    "CREATE FUNCTION pg_temp.filled() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN {} END $$"
)


def filled() -> Sequence[str]:
    """The tables that hold a row."""
    return look("SELECT pg_temp.filled()")


def look(query: str) -> Sequence[Any]:
    try:
        return looking(engine()).scalars(text(query)).all()
    except OperationalError:  # a test has ended the connection
        looking.cache_clear()
        return looking(engine()).scalars(text(query)).all()


@cache
def looking(database: Engine) -> Connection:
    """A connection that stays and plans the hundred looks once, not for every test."""
    connection = database.connect().execution_options(isolation_level="AUTOCOMMIT")
    connection.detach()
    looks = " ".join(LOOK.format(name) for name in Base.metadata.tables)
    connection.execute(text(FILLED.format(looks)))
    return connection


@pytest.fixture
def db(database: None) -> Iterator[Session]:
    """A session over a clean database. Commit what the app shall see.

    What services send stands in `db.info["outbox"]` as (task, args, queue).
    """
    with Session(engine(), expire_on_commit=False) as session:
        yield session


# -- clients -----------------------------------------------------------------------------


@pytest.fixture
def anonymous(database: None) -> Iterator[Client]:
    """Nobody."""
    from app.main import app

    with Client(app, base_url=settings.url, follow_redirects=False) as client:
        client.headers["origin"] = settings.url  # as a browser's own pages send it
        yield client


@pytest.fixture
def client(db: Session, anonymous: Client) -> Client:
    """Signed in as the owner of a workspace: `client.user`, `client.workspace`."""
    sign_in(db, anonymous)
    return anonymous


@pytest.fixture
def api(db: Session, database: None) -> Iterator[Client]:
    """An API key with all scopes, of an owner: `api.user`, `api.workspace`, `api.key`."""
    from app.main import app

    with Client(app, base_url=settings.url, follow_redirects=False) as client:
        client.user = factories.make_user(db)
        client.workspace = factories.make_workspace(db, owner=client.user)
        client.key = factories.make_key(db, client.workspace, client.user)
        client.headers["authorization"] = f"Bearer {client.key}"
        db.commit()
        yield client


def sign_in(
    db: Session, client: Client, user: User | None = None, workspace: Workspace | None = None
) -> None:
    """Give `client` the cookie of `user`, by default a new owner of a new workspace."""
    client.user = user or factories.make_user(db)
    client.workspace = workspace or factories.make_workspace(db, owner=client.user)
    name, token = factories.make_sign_in(db, client.user, client.workspace)
    client.cookies.set(name, token)
    db.commit()


# -- no network --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests reach this machine only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            assert isinstance(address, tuple)
            assert address[0] in {"127.0.0.1", "::1", "localhost"}, f"the network: {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
