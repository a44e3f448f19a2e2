"""Make the database fit to work with: migrate it, and put in what a first start needs.

`python -m app.seed` before web, workers and node start. Safe to run again, and by two machines at
once. Where it makes the first account, its password goes to `$DANLU_HOME/first-run.json`.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import app.tables  # noqa: F401 - every foreign key is known before the first query
from app.accounts import service as accounts
from app.config import ROOT, settings
from app.datasets import service as datasets
from app.db import engine
from app.models import service as models
from app.queue import transaction

FIRST_RUN = settings.home / "first-run.json"
LOCK = 0x7365656473  # "seeds"


def wait_for_database(seconds: float = 60) -> None:
    """Raises SystemExit when it does not answer in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            engine().connect().close()
            return
        except OperationalError as error:
            if time.monotonic() > end:
                sys.exit(f"The database does not answer: {error.orig}")
            time.sleep(0.1)


def migrate() -> None:
    """Bring the tables to the newest revision; waits for another process that is at it."""
    command.upgrade(Config(toml_file=ROOT / "pyproject.toml"), "head")


def seed() -> None:
    """The first account and its key, the starter model, the sample datasets: what is missing."""
    for step in (first_account, models.ensure_starter, datasets.ensure_samples):
        with transaction() as db:
            db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            step(db)


def first_account(db: Session) -> None:
    made = accounts.bootstrap(db)
    if made:
        write_first_run(made)  # before the commit: a password nobody can read helps nobody
    else:
        refresh_address()


def write_first_run(facts: dict[str, Any]) -> None:
    """Atomic, and readable by its owner alone."""
    FIRST_RUN.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = FIRST_RUN.with_name(f".first-run-{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    with partial.open("w") as file:
        json.dump({"url": settings.url} | facts, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(FIRST_RUN)


def refresh_address() -> None:
    """The file, where its owner kept it, follows DANLU_PORT and DANLU_PUBLIC_URL."""
    try:
        facts = json.loads(Path(FIRST_RUN).read_text())
    except (OSError, ValueError):
        return
    if facts.get("url") != settings.url:
        write_first_run(facts | {"url": settings.url})


if __name__ == "__main__":
    wait_for_database()
    migrate()
    seed()
