"""Thousands of malformed files through the same door as an upload: each gets a clear answer."""

import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.config import settings
from app.datasets import work
from app.datasets.intake.upload import Upload, scratch
from app.datasets.tables import DatasetIssue, DatasetVersion
from app.db import engine
from app.errors import DomainError
from tests.datasets.containers.malformed import Case, cases
from tests.datasets.containers.malformed_rows import GIB, long_line
from tests.datasets.files import stored

SEED = 20261121
MEMORY = 600  # MiB that this process may grow by, whatever comes
ESCAPED = Path("/tmp/escaped.jsonl")  # where some of the archives lead


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is to survive a loss of power, and waiting for the disk is half of the time."""
    monkeypatch.setattr("app.storage.sync", lambda _: None)


def taken(db: Session, who: Principal, case: Case) -> DatasetVersion | DomainError:
    """What an upload of the case comes to: a version that is read to its end, or the refusal."""
    upload = Upload(scratch(), case.file_name, fields={"name": case.name})
    try:
        case.write(upload.path)
        upload.size = upload.path.stat().st_size
        upload.files = [{"name": case.file_name, "bytes": upload.size}]
        try:
            found = work.take(who, upload)
        except DomainError as error:
            return error
        if found.status != "validating":
            return found
        for _ in range(50):
            db.rollback()
            db.expire_all()
            version = db.get(DatasetVersion, found.id)
            assert version
            if version.status != "validating":
                return version
            work.validate_version(found.id)
        raise AssertionError(f"{case.name} does not end")
    finally:
        shutil.rmtree(upload.directory, ignore_errors=True)


def check(who: Principal, case: Case) -> None:
    with Session(engine(), expire_on_commit=False) as db:
        judge(db, case, taken(db, who, case))


def judge(db: Session, case: Case, found: DatasetVersion | DomainError) -> None:
    if isinstance(found, DomainError):
        code, sentence = found.code, str(found)
    elif found.status == "failed":
        assert found.error
        code, sentence = found.error["code"], found.error["message"] % found.error["params"]
    else:
        assert found.status in ("draft", "mapping"), case.name
        assert not case.codes, f"{case.name} was taken"
        if found.status == "draft":
            accepted(db, case, found)
        work.discard(found.id)
        return
    assert code, case.name
    assert len(sentence) > 10, case.name
    assert str(settings.home) not in sentence, case.name
    assert not case.codes or code in case.codes, f"{case.name}: {code}"
    assert case.good is None, f"{case.name} was refused: {code}"


def accepted(db: Session, case: Case, found: DatasetVersion) -> None:
    """Each row is kept or reported with a line and a sentence."""
    query = select(DatasetIssue).where(DatasetIssue.version_id == found.id)
    issues = list(db.scalars(query.order_by(DatasetIssue.number)))
    for issue in issues:
        assert issue.message % issue.params, case.name
        assert str(settings.home) not in str(issue.params), case.name
    bad = tuple(issue.line for issue in issues if issue.level == "error")
    assert found.rows > 0, case.name
    assert case.good in (None, found.rows), case.name
    assert case.bad in (None, bad), case.name
    assert case.rows in (None, found.rows + len(bad)), case.name


def run(db: Session, who: Principal, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(3) as pool:  # as the server has it: the database is most of the work
        for _ in pool.map(lambda case: check(who, case), cases(SEED, count)):
            pass
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < MEMORY
    assert not ESCAPED.exists()
    clear(db)
    assert stored() == []


def clear(db: Session) -> None:
    """What the sweep would do for large uploads that were refused."""
    db.rollback()
    for dataset_id in set(db.scalars(select(DatasetVersion.dataset_id))):
        work.clear(dataset_id)
    for root in (Path(settings.store_url), settings.uploads):
        for path in root.glob(".partial-*"):
            raise AssertionError(path)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for number, (one, two) in enumerate(zip(cases(1, 60), cases(1, 60), strict=True)):
        for path, case in ((tmp_path / f"{number}.1", one), (tmp_path / f"{number}.2", two)):
            case.write(path)
        assert one.file_name == two.file_name
        if (tmp_path / f"{number}.1").stat().st_size < 2**20:
            assert (tmp_path / f"{number}.1").read_bytes() == (
                tmp_path / f"{number}.2"
            ).read_bytes()


def test_a_sample_of_malformed_files(db: Session, who: Principal) -> None:
    run(db, who, 150)


def test_a_line_of_a_gigabyte(db: Session, who: Principal) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(who, Case(name="gigabyte", **long_line(GIB)))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024 < 100


@pytest.mark.slow
@pytest.mark.timeout(1800)  # ten minutes alone, more in company
def test_ten_thousand_malformed_files(db: Session, who: Principal) -> None:
    run(db, who, 10_000)
