"""Usage rows reach Postgres once, whatever dies in between."""

import errno
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
from app.gateway import ledger, scopes, spool
from app.gateway.scopes import Scope
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
    assert list(settings.spool.glob("*.jsonl")) == []


def test_a_row_flushed_twice_counts_once(db: Session) -> None:
    ledger.append(row("rq_1"))
    ledger.flush()
    ledger.append(row("rq_1"))
    ledger.flush()
    assert db.scalar(select(func.sum(Usage.completion_tokens))) == 5


def run(script: str, *argv: str) -> subprocess.Popen[bytes]:
    """Another process over the same spool; it says that it is ready, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", script + HOLD, *argv],
        cwd=ROOT,
        env=os.environ | {"DANLU_HOME": str(settings.home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


HOLD = "; print('ready', flush=True); sys.stdin.read()"
BEGIN = "import json, sys; from app.gateway import ledger; row = json.loads(sys.argv[1]);"


def test_the_spool_of_a_living_process_is_left_to_it_and_taken_over_when_it_is_killed(
    db: Session,
) -> None:
    process = run(BEGIN + "ledger.append(row)", orjson.dumps(row("rq_killed")).decode())
    assert ledger.flush() == 0
    assert stored(db) == []
    process.kill()
    process.wait()
    assert ledger.flush() == 1
    assert stored(db) == ["rq_killed"]
    assert list(settings.spool.glob("*.jsonl")) == []


def test_what_a_killed_process_left_open_is_settled_as_not_completed(db: Session) -> None:
    """By what its last flush knew of it; what it had settled counts as it was settled."""
    script = BEGIN + (
        "ledger.begin(lambda: row | {'id': 'rq_open'});"
        "row['completion_tokens'] = 7; row['completed'] = False; row['status'] = 499;"
        "ledger.begin(lambda: row | {'id': 'rq_done'});"
        "ledger.spool.turn(b''.join(ledger.line(r(), is_open=True) for r in ledger.running.values()));"
        "ledger.append(row | {'id': 'rq_done', 'completion_tokens': 9, 'completed': True})"
    )
    process = run(script, orjson.dumps(row("rq")).decode())
    process.kill()
    process.wait()
    assert ledger.flush() == 2
    rows = {one.id: one for one in db.scalars(select(Usage))}
    assert (rows["rq_done"].completion_tokens, rows["rq_done"].completed) == (9, True)
    left = rows["rq_open"]
    assert (left.completion_tokens, left.completed, left.status) == (7, False, 500)


def test_what_is_open_here_stays_open(db: Session) -> None:
    ledger.begin(lambda: row("rq_open"))
    assert ledger.flush() == 0
    assert ledger.flush() == 0
    assert stored(db) == []
    ledger.append(row("rq_open"))
    assert ledger.flush() == 1
    assert stored(db) == ["rq_open"]
    assert ledger.running == {}


def test_with_a_full_disk_rows_wait_in_memory(db: Session, monkeypatch) -> None:
    def full(lines: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(spool, "append", full)
    ledger.append(row("rq_kept"))
    monkeypatch.undo()
    assert ledger.flush() == 1
    assert stored(db) == ["rq_kept"]


def test_usage_of_a_key_counts_what_is_in_the_spool_once(db: Session) -> None:
    mine = {"api_key_id": "key_x", "prompt_tokens": 10, "completion_tokens": 1}
    ledger.append(row("rq_1") | mine)
    ledger.flush()
    ledger.append(row("rq_1") | mine)  # of which the flush that failed left a copy
    ledger.append(row("rq_2") | mine | {"at": "2026-01-01T00:00:00+00:00"})
    ledger.append(row("rq_3") | mine | {"api_key_id": "key_y"})
    found = ledger.used(Scope("key_x", scopes.KEY))
    assert (found.today, found.month, found.ever) == (11, 0, 22)
    assert set(found.recent) == {"rq_1", "rq_2"}
    assert ledger.used(Scope("key_z", scopes.KEY)) == ledger.Use(0, 0, 0, [])


def test_a_line_cut_short_by_a_kill_loses_only_itself(db: Session) -> None:
    ledger.append(row("rq_1"))
    with spool.path_of(spool.process, spool.number).open("ab") as file:
        file.write(b'{"id": "rq_cut", "ki')
    assert ledger.flush() == 1
    assert stored(db) == ["rq_1"]
