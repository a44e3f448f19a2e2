"""Another secret key: all that is sealed is sealed anew, whoever is killed in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Text, select, text, type_coerce
from sqlalchemy.orm import Session

from app import sealing
from app.accounts import platform, resealing
from app.accounts.tables import AuditEntry, UserSecret
from app.alerts.tables import AlertRule
from app.config import settings
from app.jobs.tables import WebhookKey
from tests import factories as make
from tests.conftest import Client

RESEAL = """
import os, signal, sys
from app import backup
{patch}
sys.argv = ["danlu", "reseal"]
sys.exit(backup.main())
"""


@pytest.fixture
def old(db: Session, client: Client) -> str:
    """The key so far, with which one thing of each kind is sealed."""
    (settings.home / sealing.NAME).unlink(missing_ok=True)
    make.make_secret(db, client.user, value="hf_of_mine")
    rule = AlertRule(
        workspace_id=None, name="x", kinds=["job_failed"], how="webhook",
        url="https://hooks.example.com/t0p", secret=None,
    )  # fmt: skip
    db.add_all([rule, WebhookKey(workspace_id=client.workspace.id, secret="one", former="two")])
    platform.change(db, None, mail={"password": "s3cret"})
    db.commit()
    (key,) = resealing.keys_of(settings.home / sealing.NAME)
    return key


def danlu_reseal(patch: str = "") -> int:
    done = subprocess.run(
        [sys.executable, "-c", RESEAL.format(patch=patch)], check=False, env=dict(os.environ)
    )
    return done.returncode


def keys() -> list[str]:
    return resealing.keys_of(settings.home / sealing.NAME)


def sealed(db: Session) -> list[str]:
    """Every ciphertext there is."""
    db.rollback()
    found: list[str] = []
    for table, columns in resealing.sealed_columns():
        for row in db.execute(select(*(type_coerce(one, Text) for one in columns))):
            found += [value for value in row if value]
        assert table.name
    kept = db.scalar(text("SELECT sections->'mail'->>'password' FROM platform_settings"))
    return [*found, str(kept)]


def works(db: Session, client: Client) -> None:
    """Everything can be read, by this process, which ran all the time."""
    db.expire_all()
    assert db.scalar(select(UserSecret.value)) == "hf_of_mine"
    assert db.scalar(select(AlertRule.url)) == "https://hooks.example.com/t0p"
    key = db.get_one(WebhookKey, client.workspace.id)
    assert (key.secret, key.former) == ("one", "two")
    assert platform.reveal(platform.read(db).mail.password) == "s3cret"


def test_all_is_sealed_anew_and_the_old_key_goes(db: Session, client: Client, old: str) -> None:
    before = sealed(db)
    assert len(before) == 5
    assert danlu_reseal() == 0
    (new,) = keys()
    assert new != old
    assert not {*before} & {*sealed(db)}
    assert all(sealing.is_of(Fernet(new), one) for one in sealed(db))
    works(db, client)
    entry = db.scalars(select(AuditEntry).where(AuditEntry.action == "reseal")).one()
    assert (entry.actor, entry.after) == ("system", {"values": 5})
    assert (settings.home / sealing.NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "where",
    [
        "backup.resealing.reseal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        "backup.resealing.audit.note = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)",
        "backup.resealing.finish = lambda: os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["before the rows", "before the commit", "before the old key goes"],
)
def test_a_kill_leaves_all_readable_and_the_next_goes_on(
    db: Session, client: Client, old: str, where: str
) -> None:
    assert danlu_reseal(where) == -signal.SIGKILL
    new, kept = keys()
    assert kept == old
    works(db, client)
    db.rollback()
    assert danlu_reseal() == 0
    assert keys() == [new]
    works(db, client)


def test_a_key_that_is_missing_changes_nothing(
    db: Session, client: Client, old: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file: Path = settings.home / sealing.NAME
    resealing.write(file, [Fernet.generate_key().decode()])
    before = sealed(db)
    assert danlu_reseal() == 1
    assert "another key" in capfd.readouterr().err
    assert sealed(db) == before
    resealing.write(file, [*keys(), old])
    works(db, client)


def test_keys_of_the_environment_are_the_administrators(
    db: Session, client: Client, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Fernet.generate_key().decode()
    monkeypatch.setattr(settings, "secret_key", f"{new},{old}")
    resealing.begin()
    assert resealing.reseal(db) == 5
    db.commit()
    assert resealing.reseal(db) == 0
    assert not resealing.finish()
    assert keys() == [old]
    monkeypatch.setattr(settings, "secret_key", new)
    works(db, client)
