"""Importing as a script and the worker do it."""

from datetime import timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.datasets import sweep, work
from app.datasets.intake import importing
from app.datasets.tables import DatasetVersion
from app.db import now
from tests.conftest import Client
from tests.datasets.files import many, stored

URL = "/api/v1/datasets"
SLOW = many(20_000)  # about 2 MB


def begin(api: Client, **asked: Any) -> dict[str, Any]:
    answer = api.post(f"{URL}/import", json={"name": "mine"} | asked)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "importing"
    return answer.json()


def fresh(db: Session, version_id: str) -> DatasetVersion:
    db.rollback()
    db.expire_all()
    found = db.get(DatasetVersion, version_id)
    assert found
    return found


def rested(db: Session) -> None:
    """As if the time of waiting were over."""
    db.rollback()
    db.execute(update(DatasetVersion).values(claimed_at=now() - timedelta(minutes=9)))
    db.commit()


def finish(db: Session, version_id: str) -> DatasetVersion:
    """What the worker does, until nothing moves any more."""
    for _ in range(100):
        found = fresh(db, version_id)
        if found.status not in ("importing", "validating"):
            return found
        rested(db)
        importing.import_version(version_id)
        work.validate_version(version_id)
    raise AssertionError("it does not end")


def nudges(db: Session) -> list[tuple[str, Any]]:
    db.rollback()
    db.expire_all()
    sweep.resend(db)
    return sorted((task, args[0]) for task, args, _ in db.info.pop("outbox", []))


def failed(api: Client, db: Session, **asked: Any) -> str:
    """The code of the failure; nothing of it is left on disk."""
    made = begin(api, **asked)
    found = finish(db, made["version_id"])
    assert found.status == "failed"
    work.clear(made["id"])
    assert stored() == []
    shown = api.get(f"{URL}/{made['id']}").json()["error"]
    assert len(shown["message"]) > 10
    assert "%(" not in shown["message"]
    return str(shown["code"])
