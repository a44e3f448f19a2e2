"""Usage rows reach Postgres once, whatever dies in between."""

import os
import subprocess
import sys
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.config import ROOT, settings
from app.db import now
from app.gateway import ledger
from app.quotas.tables import Usage


def row(request_id: str) -> dict[str, Any]:
    return {
        "id": request_id,
        "at": now().isoformat(),
        "kind": "tokens",
        "workspace_id": "ws_x",
        "user_id": "usr_x",
        "api_key_id": None,
        "owner_kind": "deployment",
        "owner_id": "dep_x",
        "model": "m",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "first_token_ms": 10,
        "duration_ms": 20,
        "status": 200,
        "completed": True,
    }


@pytest.fixture(autouse=True)
def empty_spool(db: Session) -> None:
    for path in settings.spool.glob("*"):
        path.unlink()


def stored(db: Session) -> list[str]:
    db.expire_all()
    return list(db.scalars(select(Usage.id).order_by(Usage.id)))


def test_rows_are_flushed_and_the_spool_is_emptied(db: Session) -> None:
    ledger.append(row("rq_1"))
    ledger.append(row("rq_2"))
    assert ledger.flush() == 2
    assert stored(db) == ["rq_1", "rq_2"]
    assert list(settings.spool.glob("*")) == []


def test_a_row_flushed_twice_counts_once(db: Session) -> None:
    ledger.append(row("rq_1"))
    ledger.flush()
    ledger.append(row("rq_1"))
    ledger.flush()
    assert db.scalar(select(func.sum(Usage.completion_tokens))) == 5


def test_the_spool_of_a_killed_process_is_taken_over(db: Session) -> None:
    script = (
        "import json, os, sys; from app.gateway import ledger;"
        "ledger.append(json.loads(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", script, orjson.dumps(row("rq_killed")).decode()],
        cwd=ROOT,
        env=os.environ | {"DANLU_HOME": str(settings.home)},
        check=False,
    )
    assert ledger.flush() == 1
    assert stored(db) == ["rq_killed"]


def test_a_line_cut_short_by_a_kill_loses_only_itself(db: Session) -> None:
    ledger.append(row("rq_1"))
    with ledger.own_file().open("ab") as file:
        file.write(b'{"id": "rq_cut", "ki')
    assert ledger.flush() == 1
    assert stored(db) == ["rq_1"]


def test_the_spool_of_a_living_process_is_left_to_it(db: Session) -> None:
    other = settings.spool / f"usage-{os.getppid()}.jsonl"
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(b"")
    ledger.flush()
    assert other.exists()
    other.unlink()
