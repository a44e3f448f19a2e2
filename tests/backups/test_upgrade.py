"""Data of an older Danlu is backed up, changed and kept; of a newer one, left alone."""

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
from app.backups import making, schema
from app.backups.archive import Reader
from app.config import ROOT, settings
from tests.stack import environment
from tests.test_up import Up, end

NAME = "danlu_older"
OLD = schema.known()[-8]  # with tables that later ones change
WORKSPACE = """INSERT INTO workspaces (id, slug, name, created_at)
    VALUES ('ws_old', 'old', 'Old team', now())"""


class Older:
    """A database of its own on the tests' server, and a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = settings.database_url.replace("/danlu?", f"/{NAME}?")

    def sql(self, statement: str) -> list[tuple]:
        plain = self.url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as db:
            found = db.execute(statement)
            return found.fetchall() if found.description else []

    def run(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"DATABASE_URL": self.url, "DANLU_HOME": str(self.home), "LANG": "C"}
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=env | extra,
            capture_output=True,
            text=True,
        )

    def upgrade(self, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.run("app.backup", "upgrade", **extra)

    @property
    def revision(self) -> str:
        return str(self.sql("SELECT version_num FROM alembic_version")[0][0])

    def backups(self) -> list[Path]:
        return sorted((self.home / "backups").glob("*"))


@pytest.fixture
def older(servers: None, tmp_path: Path) -> Iterator[Older]:
    """A database of an older revision, with a row."""
    server = settings.database_url.replace("+psycopg", "")
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        db.execute(f"CREATE DATABASE {NAME}")
    found = Older(tmp_path)
    made = found.run("alembic", "-c", "pyproject.toml", "upgrade", OLD)
    assert made.returncode == 0, made.stderr
    found.sql(WORKSPACE)
    yield found
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def test_older_tables_are_backed_up_and_changed(older: Older) -> None:
    done = older.upgrade()
    assert done.returncode == 0, done.stderr
    assert older.revision == schema.known()[0]
    assert older.sql("SELECT name FROM workspaces") == [("Old team",)]
    (file,) = older.backups()
    assert str(file) in done.stdout
    with file.open("rb") as opened:
        manifest = Reader(opened).manifest
    assert manifest["revision"] == OLD
    assert manifest["counts"]["workspaces"] == 1
    assert manifest["artefacts"] == "left out"

    again = older.upgrade()
    assert (again.returncode, again.stdout) == (0, "")
    assert older.backups() == [file]


def test_a_migration_that_fails_changes_nothing_and_says_how_to_go_on(older: Older) -> None:
    older.sql("CREATE TABLE once_requests (id int)")  # which a later revision makes
    failed = older.upgrade()
    assert failed.returncode == 1
    (file,) = older.backups()
    assert "Nothing was changed" in failed.stderr
    assert f"danlu restore {file}" in failed.stderr
    assert older.revision == OLD
    assert older.sql("SELECT name FROM workspaces") == [("Old team",)]

    older.sql("DROP TABLE once_requests")
    assert older.upgrade(DANLU_UPGRADE_BACKUP="False").returncode == 0
    assert older.backups() == [file]


def test_a_newer_database_is_refused(older: Older) -> None:
    older.sql("UPDATE alembic_version SET version_num = '9999'")
    refused = older.upgrade()
    assert refused.returncode == 1
    assert "made by a newer Danlu (revision 9999" in refused.stderr
    assert older.backups() == []
    assert older.revision == "9999"


def test_the_last_three_are_kept(older: Older) -> None:
    kept = older.home / "backups"
    kept.mkdir()
    for number in range(5):
        file = kept / f"upgrade-from-000{number}-danlu.danlu.tar"
        file.touch()
        os.utime(file, (number, number))
    assert older.upgrade().returncode == 0
    names = [path.name for path in older.backups()]
    assert len(names) == 3
    assert names[:2] == [f"upgrade-from-000{number}-danlu.danlu.tar" for number in (3, 4)]


def test_no_room_no_backup(database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making.room_for_database(tmp_path)
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(making.NoRoom):
        making.room_for_database(tmp_path)


@pytest.fixture
def up() -> Iterator[Up]:
    path = Path(tempfile.mkdtemp(prefix="danlu-upgrade-", dir="/tmp"))
    path.chmod(0o711)
    stack = Up(path)
    yield stack
    end(stack)
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_a_newer_danlu_takes_over_and_what_runs_goes_on(up: Up) -> None:
    up.start()
    up.announced()
    with up.api() as api:
        found = api.get("/api/v1/datasets").raise_for_status().json()["data"]
        job = {
            "name": "survivor",
            "model": "danlu-starter",
            "dataset": next(one["id"] for one in found if one["name"] == "reviews-train"),
            "stage": "sft",
            "method": "lora",
            "hyperparameters": {"max_steps": 100000, "save_steps": 50},
        }
        job_id = api.post("/api/v1/jobs", json=job).raise_for_status().json()["id"]
        up.until(lambda: api.get(f"/api/v1/jobs/{job_id}").json()["step"] > 3, 240)
    trainers = {pid for pid, line in up.processes().items() if "stages" in line}
    assert trainers

    # the home becomes one of an older version
    first, up.output = up.process, up.output.with_name("second")
    (up.home / "schema").write_text("0001_initial.py")
    up.process = up.launch(sys.executable, "-m", "app.up", "--take-over")
    assert first
    assert first.wait(90) == 0
    up.announced()
    assert trainers <= set(up.processes())
    with up.api() as api:
        step = api.get(f"/api/v1/jobs/{job_id}").json()["step"]
        up.until(lambda: api.get(f"/api/v1/jobs/{job_id}").json()["step"] > step, 120)
        events = api.get(f"/api/v1/jobs/{job_id}").json()
        assert events["state"] == "running"
        api.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_up_changes_an_older_home_and_refuses_a_newer(up: Up) -> None:
    up.start()
    up.announced()
    up.stop()
    at = embedded.place(up.home)
    plain = at.database_url.replace("+psycopg", "")
    server = embedded.start_postgres(at, up.home / "logs" / "postgres.log")
    until(lambda: embedded.postgres_ready(at))
    env = environment(up.home, up.port, DATABASE_URL=at.database_url)
    back = [sys.executable, "-m", "alembic", "-c", "pyproject.toml", "downgrade", OLD]
    subprocess.run(back, cwd=ROOT, env=env, check=True)
    with psycopg.connect(plain, autocommit=True) as db:
        db.execute(WORKSPACE)
    embedded.stop(server, signal.SIGINT)

    (up.home / "schema").write_text("0001_initial.py")
    up.start()
    up.announced()
    assert "Backup before the upgrade" in up.output.read_text()
    assert len(list((up.home / "backups").glob(f"upgrade-from-{OLD}-*"))) == 1
    with up.api() as api:
        names = {one["name"] for one in api.get("/api/v1/workspaces").json()["data"]}
    assert "Old team" in names

    with psycopg.connect(plain, autocommit=True) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    up.stop()
    (up.home / "schema").write_text("9999_later.py")
    assert up.launch().wait(60) == 1
    assert "made by a newer Danlu" in up.output.read_text()


def until(true) -> None:
    end_at = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end_at
        time.sleep(0.05)
