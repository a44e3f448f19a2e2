"""Undoing the deletion of a dataset, and its end."""

from datetime import timedelta

from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import AuditEntry
from app.datasets import sweep, work
from app.datasets.tables import Dataset
from app.db import now
from app.quotas import limits
from tests.conftest import Client
from tests.datasets.files import many, stored
from tests.factories import make_dataset, make_workspace

URL = "/api/v1/datasets"


def uploaded(api: Client) -> str:
    """A published dataset of 3 rows."""
    made = api.post(URL, files={"file": ("reviews.jsonl", many(3))}).json()
    assert api.post(f"{URL}/{made['id']}/publish").status_code == 200
    return str(made["id"])


def aged(db: Session, dataset_id: str, days: float) -> None:
    db.rollback()
    db.expire_all()
    db.get_one(Dataset, dataset_id).deleted_at = now() - timedelta(days=days)
    db.commit()


def nudged(db: Session, dataset_id: str) -> bool:
    sweep.resend(db)
    return ("workers.clear_dataset", (dataset_id,), "control") in db.info.pop("outbox", [])


def test_a_deletion_is_undone(db: Session, api: Client) -> None:
    made = uploaded(api)
    assert api.post(f"{URL}/{made}/restore").status_code == 409
    assert api.delete(f"{URL}/{made}").status_code == 204
    work.clear(made)
    assert api.get(f"{URL}/{made}").status_code == 404
    (listed,) = api.get(f"{URL}/deleted").json()["data"]
    assert (listed["id"], listed["rows"], listed["name"]) == (made, 3, "reviews")
    assert listed["until"] > listed["deleted_at"]
    page = BeautifulSoup(api.get("/datasets/deleted").text, "lxml")
    form = page.select_one("[data-testid=deleted-dataset] form")
    assert form
    answer = api.post(str(form["action"]), headers={"hx-request": "true"})
    assert answer.status_code in (200, 204), answer.text
    assert api.get(f"{URL}/{made}/rows").json()["data"][2]
    assert api.get(f"{URL}/deleted").json()["data"] == []
    actions = select(AuditEntry.action).where(AuditEntry.noun_id == made)
    assert list(db.scalars(actions.order_by(AuditEntry.at))) == ["create", "delete", "restore"]


def test_after_its_days_its_rows_go(db: Session, api: Client) -> None:
    made, twin = uploaded(api), uploaded(api)  # of the same rows, in the same segment
    for one in (made, twin):
        assert api.delete(f"{URL}/{one}").status_code == 204
    aged(db, made, 6.9)
    assert not nudged(db, made)
    aged(db, made, 7.1)
    assert api.get(f"{URL}/deleted").json()["data"][0]["id"] == twin
    assert nudged(db, made)
    work.clear(made)
    assert stored()  # the other one can be brought back
    assert api.post(f"{URL}/{made}/restore").status_code == 404
    cleared = select(AuditEntry).where(AuditEntry.action == "clear")
    assert db.scalars(cleared).one().noun_id == made
    assert not nudged(db, made)
    aged(db, twin, 8)
    work.clear(twin)
    assert stored() == []


def test_what_comes_back_needs_room(db: Session, api: Client) -> None:
    made = uploaded(api)
    api.delete(f"{URL}/{made}")
    limits.change(db, api.workspace.id, None, {"storage_bytes": 1})
    db.commit()
    refused = api.post(f"{URL}/{made}/restore")
    assert (refused.status_code, refused.json()["code"]) == (422, "quota")


def test_the_trash_is_the_workspaces_own(db: Session, api: Client) -> None:
    other = make_dataset(db, make_workspace(db))
    other.dataset.deleted_at = now()
    db.commit()
    assert api.get(f"{URL}/deleted").json()["data"] == []
    assert api.post(f"{URL}/{other.dataset_id}/restore").status_code == 404
