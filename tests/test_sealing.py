import os
import stat
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Column, Integer, MetaData, Table, select, text

from app import sealing
from app.config import ROOT, settings
from app.db import engine

WRITER = "import sys; from app import sealing; print(sealing.seal(sys.argv[1]))"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "home", tmp_path / "home")
    return tmp_path / "home"


def test_what_is_sealed_comes_back_and_no_two_look_the_same():
    once, again = sealing.seal("hf_密钥"), sealing.seal("hf_密钥")
    assert once != again
    assert "hf_" not in once
    assert sealing.looks_sealed(once)
    assert sealing.unseal(once) == sealing.unseal(again) == "hf_密钥"


def test_the_key_file_is_the_owners_alone(home):
    sealing.seal("x")
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_many_who_start_at_once_agree_on_one_key(home):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, f"secret {number}"],
            cwd=ROOT,
            env=os.environ | {"DANLU_HOME": str(home)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    sealed = [process.communicate()[0].strip() for process in processes]
    assert [sealing.unseal(one) for one in sealed] == [f"secret {n}" for n in range(6)]
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_a_new_key_stands_before_the_old_one(monkeypatch):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    monkeypatch.setattr(settings, "secret_key", old)
    sealed = sealing.seal("x")
    monkeypatch.setattr(settings, "secret_key", f"{new},{old}")
    assert sealing.unseal(sealed) == "x"
    fresh = sealing.resealed(sealed)
    monkeypatch.setattr(settings, "secret_key", new)
    assert sealing.unseal(fresh) == "x"
    with pytest.raises(sealing.WrongKey, match=r"secret\.key"):
        sealing.unseal(sealed)


@pytest.mark.parametrize("key", ["short", "*" * 44, "密钥"])
def test_a_key_that_is_none_says_so(monkeypatch, key):
    monkeypatch.setattr(settings, "secret_key", key)
    with pytest.raises(sealing.WrongKey, match="32 bytes"):
        sealing.seal("x")


def test_a_sealed_column_is_ciphertext_in_the_row(db, monkeypatch):
    kept = Table("kept", MetaData(), Column("id", Integer), Column("text", sealing.Sealed))
    with engine().begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE kept (id int, text text)"))
        connection.execute(kept.insert(), [{"id": 1, "text": "hf_secret"}, {"id": 2, "text": None}])
        raw = connection.execute(text("SELECT text FROM kept WHERE id = 1")).scalar_one()
        assert sealing.looks_sealed(raw)
        assert "hf_secret" not in raw
        rows = connection.execute(select(kept.c.text).order_by(kept.c.id)).scalars().all()
        assert rows == ["hf_secret", None]
        monkeypatch.setattr(settings, "secret_key", Fernet.generate_key().decode())
        with pytest.raises(sealing.WrongKey):
            connection.execute(select(kept.c.text)).scalars().all()
        connection.execute(text("DROP TABLE kept"))
