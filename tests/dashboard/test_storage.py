"""What takes the room, and what would be cleared away: pages and JSON."""

from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.accounts import platform
from app.accounts.tables import AuditEntry
from app.config import settings
from app.db import now
from app.jobs.tables import Job, JobFiles, JobLog
from app.models import sweep
from tests import factories as make
from tests.conftest import Client
from tests.jobs.people import owner

URL = "/api/v1/platform/storage"


@pytest.fixture
def job(db: Session, api: Client) -> Job:
    """Over for eight days; a node told of its files."""
    api.user.is_platform_admin = True
    make.make_node(db, id=settings.node, facts={"stored": {"cache": 7, "uploads": 5}})
    base = make.make_model(db, name="big", size=5000, artefact="models/big")
    job = make.make_job(
        db, api.workspace, owner(db, api.workspace), name="tone", model_id=base.id,
        state="failed", finished_at=now() - timedelta(days=8), fence=1,
    )  # fmt: skip
    told = JobFiles(
        job_id=job.id, node_id=settings.node, checkpoints={"10": 300, "20": 400}, others=50
    )
    db.add(told)
    db.commit()
    return job


def test_bytes_by_kind_and_by_workspace(db: Session, api: Client, job: Job) -> None:
    twin = make.make_model(db, api.workspace, name="twin", size=5000, artefact="models/big")
    lora = make.make_model(
        db, api.workspace, name="lora", kind="adapter", size=90, artefact="models/lora",
        deleted_at=now(),
    )  # fmt: skip
    db.commit()
    found = api.get(URL).json()
    kinds = {one["kind"]: (one["bytes"], one["count"]) for one in found["kinds"]}
    assert kinds["base"] == (5000, 1)  # two names of the same files
    assert kinds["adapter"] == (90, 1)  # until its files go
    assert (kinds["checkpoints"], kinds["run"]) == ((700, 2), (50, 1))
    assert (kinds["cache"], kinds["upload"]) == ((7, 1), (5, 1))
    assert kinds["database"][0] > 1_000_000
    (mine,) = [one for one in found["workspaces"] if one["workspace"] == api.workspace.id]
    assert mine["kinds"]["checkpoints"] == 700
    assert (found["largest"][0]["name"], found["largest"][0]["bytes"]) == ("big", 5000)
    assert twin.id != lora.id
    page = BeautifulSoup(api.get("/admin/storage/overview").text, "lxml")
    assert page.select_one("[data-testid=stored-kind][data-kind=checkpoints]")
    assert page.select_one(f'[data-testid=stored-largest] a[href="/jobs/{job.id}"]')


def test_what_would_go_is_listed_and_nothing_goes(db: Session, api: Client, job: Job) -> None:
    db.add(JobLog(job_id=job.id, fence=1, offset=0, data=b"hello\n"))
    platform.change(db, None, retention={"log_days": 1})
    db.commit()
    for _ in range(2):
        found = api.get(URL + "/clean").json()
        assert (found["bytes"], found["count"], found["has_more"]) == (756, 2, False)
    run, log = found["data"]
    assert (run["kind"], run["of"], run["bytes"], run["steps"]) == ("run", job.id, 750, [10, 20])
    assert (log["kind"], log["bytes"]) == ("log", 6)
    (first,) = api.get(URL + "/clean", params={"limit": 1}).json()["data"]
    after = {"after": first["id"], "limit": 1}
    assert api.get(URL + "/clean", params=after).json()["data"][0]["id"] == log["id"]
    page = BeautifulSoup(api.get("/admin/storage/clean").text, "lxml")
    kinds = [row["data-kind"] for row in page.select("[data-testid=clearing-item]")]
    assert kinds == ["run", "log"]
    assert api.put(f"/api/v1/jobs/{job.id}/keep", json={"keep": True}).status_code == 200
    assert api.get(URL + "/clean").json()["count"] == 0


def test_now(db: Session, api: Client, job: Job) -> None:
    answer = api.post(URL + "/clean")
    assert (answer.status_code, answer.json()["bytes"]) == (202, 750)
    entry = db.scalars(select(AuditEntry).where(AuditEntry.noun == "storage")).one()
    assert (entry.action, entry.actor, entry.after) == ("clear", "key", {"items": 1, "bytes": 750})
    assert "Begun" in api.post("/admin/storage/clean", headers={"accept-language": "en"}).text


def test_a_models_files_go_even_if_somebody_is_killed(db: Session, api: Client, job: Job) -> None:
    """Marked, and then the process died: the next one finds what still names files."""
    place = storage.local_root()
    assert place
    (place / "models/lora").mkdir(parents=True)
    (place / "models/lora/x").write_bytes(b"x")
    model = make.make_model(
        db, api.workspace, artefact="models/lora", size=1, deleted_at=now() - timedelta(days=9),
        purged_at=now() - timedelta(days=1), templated=False,
    )  # fmt: skip
    db.commit()
    (gone,) = [one for one in api.get(URL + "/clean").json()["data"] if one["kind"] == "model"]
    assert gone["of"] == model.id
    sweep.clear_models()
    db.expire_all()
    assert not (place / "models/lora").exists()
    assert model.artefact == ""
    kinds = [one["kind"] for one in api.get(URL + "/clean").json()["data"]]
    assert "model" not in kinds


def test_the_page_is_for_platform_admins(api: Client) -> None:
    for path in (URL, URL + "/clean"):
        assert api.get(path).status_code == 403
