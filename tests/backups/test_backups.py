"""A backup holds everything, is restored into an empty home, and is refused where it is not whole."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import zstandard
from sqlalchemy import text
from sqlalchemy.orm import Session

from app import embedded, storage
from app.backups import dump, making, schema
from app.backups.archive import Broken, Reader, Writer
from app.backups.making import Wanted
from app.config import ROOT, settings
from app.db import engine
from app.errors import Conflict
from tests import factories as make

pytestmark = pytest.mark.timeout(120)
ROWS = "\n".join(f'{{"text": "{number}"}}' for number in range(5000))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the embedded servers' user may pass through."""
    path = Path(tempfile.mkdtemp(prefix="danlu-backups-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def content(db: Session, tmp_path: Path) -> Iterator[str]:
    """Rows, an artefact, a key and measured usage; the id of a model."""
    user = make.make_user(db)
    workspace = make.make_workspace(db, owner=user, name="丹炉")
    files = tmp_path / "files"
    (files / "deep").mkdir(parents=True)
    (files / "rows.jsonl").write_text(ROWS)
    (files / "deep" / "weights").write_bytes(os.urandom(100_000))
    model = make.make_model(db, workspace, artefact=storage.put(files, "models/mdl_x"))
    make.make_job(db, workspace, user, model_id=model.id)
    db.commit()
    settings.spool.mkdir(parents=True)
    (settings.spool / "usage-gw_x-1.jsonl").write_text('{"id": "u1"}\n')
    key = settings.home / "secret.key"
    before = key.read_text() if key.exists() else None
    key.write_text("the key of this home\n")
    yield model.id
    key.unlink() if before is None else key.write_text(before)


def danlu(*arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, without the tests' database and home."""
    dropped = ("DANLU_", "DATABASE_URL", "REDIS_URL", "PGOPTIONS", "LANG", "LC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
        cwd=ROOT,
        env=kept | extra,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def read(path: Path) -> Reader:
    return Reader(path.open("rb"))


def test_everything_comes_back_in_an_empty_home(content: str, place: Path) -> None:
    made = danlu("backup", place, DATABASE_URL=settings.database_url, DANLU_HOME=str(settings.home))
    assert made.returncode == 0, made.stderr
    (file,) = place.glob("danlu-*.danlu.tar")
    assert str(file) in made.stdout
    assert file.stat().st_mode & 0o777 == 0o600

    home = place / "home"
    restored = danlu("restore", file, "--home", home)
    assert restored.returncode == 0, restored.stderr
    assert (home / "secret.key").read_text() == "the key of this home\n"
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (home / "spool" / "usage-gw_x-1.jsonl").read_text() == '{"id": "u1"}\n'
    assert (home / "store/models/mdl_x/rows.jsonl").read_text() == ROWS
    weights = Path("deep/weights")
    assert (home / "store/models/mdl_x" / weights).read_bytes() == (
        storage.fetch("models/mdl_x") / weights
    ).read_bytes()

    at = embedded.place(home)  # stopped again: only started for as long as it was needed
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(at.database_url.replace("+psycopg", ""))
    again = danlu("backup", place / "again.danlu.tar", "--without-key", DANLU_HOME=str(home))
    assert again.returncode == 0, again.stderr
    first, second = read(file).manifest, read(place / "again.danlu.tar").manifest
    assert second["counts"] == first["counts"]
    assert first["counts"]["jobs"] == 1
    assert (first["key"], second["key"]) == ("included", "left out")
    assert {one["name"] for one in first["members"]} - {
        one["name"] for one in second["members"]
    } == {"secret.key"}
    shutil.rmtree(at.data, ignore_errors=True)


def test_only_an_empty_home_is_filled(content: str, place: Path) -> None:
    file = making.make(place, Wanted())
    home = place / "home"
    home.mkdir()
    (home / "mine").write_text("kept")
    refused = danlu("restore", file, "--home", home)
    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
    assert [path.name for path in home.iterdir()] == ["mine"]


def test_a_database_that_has_tables_is_left_alone(content: str, place: Path) -> None:
    file = making.make(place, Wanted())
    home = place / "home"
    refused = danlu("restore", file, "--home", home, DATABASE_URL=settings.database_url)
    assert refused.returncode == 1
    assert "The database is not empty" in refused.stderr
    assert not home.exists()


def test_damage_is_found_and_nothing_is_left_of_the_attempt(content: str, place: Path) -> None:
    file = making.make(place, Wanted())
    damaged = bytearray(file.read_bytes())
    at = damaged.find(b"store/models/mdl_x.tar.zst") + 2000
    damaged[at] ^= 1
    (place / "damaged.tar").write_bytes(damaged)
    (place / "cut.tar").write_bytes(damaged[: len(damaged) // 2])
    home = place / "home"
    for name, word in (("damaged.tar", "is damaged"), ("cut.tar", "is no backup")):
        refused = danlu("restore", place / name, "--home", home)
        assert refused.returncode == 1
        assert word in refused.stderr
        assert not home.exists()
    assert danlu("backup", "--verify", place / "damaged.tar").returncode == 1
    sound = danlu("backup", "--verify", file)
    assert sound.returncode == 0, sound.stderr
    assert "1 jobs" in sound.stdout


def test_a_newer_backup_is_refused(content: str, place: Path) -> None:
    with (place / "newer.danlu.tar").open("w+b") as file:
        Writer(file, making.quiet).close({"revision": "9999", "counts": {}, "key": "left out"})
    refused = danlu("restore", place / "newer.danlu.tar", "--home", place / "home")
    assert refused.returncode == 1
    assert "newer Danlu" in refused.stderr
    assert not (place / "home").exists()


def test_an_artefact_cannot_leave_its_place(place: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("../../planted")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    with (place / "evil.danlu.tar").open("w+b") as file:
        writer = Writer(file, making.quiet)
        with writer.member("store/models/x.tar.zst") as sink:
            sink.write(zstandard.compress(packed.getvalue()))
        writer.close({"revision": "", "counts": {}, "key": "left out"})
    reader = read(place / "evil.danlu.tar")
    ((artefact, member),) = reader.artefacts()
    assert artefact == "models/x"
    (place / "into").mkdir()
    with pytest.raises(tarfile.OutsideDestinationError):
        reader.unpack(member, place / "into")
    assert not (place.parent / "planted").exists()


def test_what_is_deleted_meanwhile_is_still_in_it(content: str, place: Path) -> None:
    deleted: list[str] = []

    def tell(member: str, _done: int) -> None:
        if member == "database.dump.zst" and not deleted:
            deleted.append(member)
            storage.delete("models/mdl_x")

    file = making.make(place, Wanted(), tell)
    assert deleted
    root = storage.local_root()
    assert root
    assert not (root / "models/mdl_x").exists()
    assert not (root / storage.DELETED).exists()
    assert dict(read(file).artefacts()).keys() == {"models/mdl_x"}
    storage.delete("models/mdl_x")  # twice is once


def test_a_deletion_in_the_middle_of_an_artefact(content: str, place: Path) -> None:
    seen: list[str] = []

    def tell(member: str, _done: int) -> None:
        if member.startswith("store/") and not seen:
            seen.append(member)
            storage.delete("models/mdl_x")

    root = storage.local_root()
    assert root
    (root / "models/mdl_x/zz").write_bytes(os.urandom(4_000_000))
    file = making.make(place, Wanted(), tell)
    reader = read(file)
    reader.verify(making.quiet)
    ((_, member),) = reader.artefacts()
    (place / "into").mkdir()
    reader.unpack(member, place / "into")
    assert (place / "into/rows.jsonl").read_text() == ROWS
    assert (place / "into/zz").stat().st_size == 4_000_000


def test_one_that_fails_leaves_no_file(
    content: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dump, "dump", fail)
    with pytest.raises(making.NoRoom):
        making.make(place, Wanted())
    assert list(place.iterdir()) == []


def test_an_existing_file_is_not_replaced(content: str, place: Path) -> None:
    (place / "mine").write_text("kept")
    with pytest.raises(Conflict):
        making.make(place / "mine", Wanted())
    assert (place / "mine").read_text() == "kept"


def test_gnu_tar_and_zstd_can_read_it(content: str, place: Path) -> None:
    file = making.make(place, Wanted())
    subprocess.run(["tar", "-xf", file, "-C", place], check=True)
    manifest = json.loads((place / "manifest.json").read_text())
    with engine().connect() as connection:
        assert manifest["revision"] == schema.revision(connection) == schema.known()[0]
        version = connection.execute(text("SHOW server_version")).scalar_one()
    assert str(manifest["postgres"]) == version.partition(".")[0]
    packed = (place / "database.dump.zst").read_bytes()
    dumped = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    assert dumped.startswith(b"PGDMP")


def test_a_password_stands_in_no_command_line() -> None:
    found = dump.connection("postgresql+psycopg://lin:p%40ss@db.example:5433/danlu?sslmode=require")
    assert found == {
        "PGUSER": "lin",
        "PGPASSWORD": "p@ss",
        "PGHOST": "db.example",
        "PGPORT": "5433",
        "PGDATABASE": "danlu",
        "PGSSLMODE": "require",
    }


def test_a_server_newer_than_the_tools_is_said() -> None:
    with pytest.raises(dump.Failed, match="Postgres 99"):
        dump.tool("pg_dump", 99)


def test_what_is_no_backup(place: Path) -> None:
    (place / "x.danlu.tar").write_bytes(b"hello")
    with pytest.raises(Broken):
        read(place / "x.danlu.tar")
    listed = danlu("backup", "--list", place)
    assert listed.returncode == 0
    assert "is no backup" in listed.stdout


def test_backup_of_a_running_home_needs_one(place: Path) -> None:
    refused = danlu("backup", place, DANLU_HOME=str(place / "nothing"))
    assert refused.returncode == 1
    assert "There is no Danlu" in refused.stderr
