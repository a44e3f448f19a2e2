"""Backups by the clock, and a disk below its floor."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import platform
from app.alerts.tables import Alert
from app.backups import dump, service
from app.backups.archive import Reader
from app.backups.tables import Backup
from app.cluster import service as cluster
from app.config import settings
from app.db import now
from app.jobs.tables import JobEvent
from tests import factories as make
from tests.conftest import Client
from workers import disks, sweep, watch


def rows(db: Session) -> list[Backup]:
    db.expire_all()
    return list(db.scalars(select(Backup).order_by(Backup.created_at)))


def set_backups(db: Session, place: Path, **values: object) -> None:
    platform.change(db, None, backups={"directory": str(place), **values})
    db.commit()


def test_once_a_day_and_the_last_are_kept(db: Session, tmp_path: Path) -> None:
    set_backups(db, tmp_path, at=f"{now() - timedelta(minutes=1):%H:%M}", keep=2)
    for number in range(3):
        for _ in range(2):
            sweep.run(service.due)
        (*_, last) = rows(db)
        assert len(rows(db)) == number + 1
        (tmp_path / f"{service.PREFIX}2020010{number}T000000Z.danlu.tar").touch()
        service.make(last.id)
        service.make(last.id)
        assert rows(db)[-1].state == "succeeded", rows(db)[-1].error
        last.created_at = now() - timedelta(days=2)
        db.commit()
        made = Path(last.file).rename(
            tmp_path / f"{service.PREFIX}2021010{number}T000000Z.danlu.tar"
        )
    assert len(list(tmp_path.glob("*.danlu.tar"))) == 2
    with made.open("rb") as file:
        assert Reader(file).manifest["artefacts"] == "left out"


def test_without_a_time_none_is_made(db: Session) -> None:
    sweep.run(service.due)
    assert rows(db) == []


def test_the_last_time_it_was_three() -> None:
    moment = datetime(2026, 11, 22, 2, 59, tzinfo=UTC)
    assert service.latest("03:00", moment) == datetime(2026, 11, 21, 3, tzinfo=UTC)
    assert service.latest("02:59", moment) == datetime(2026, 11, 22, 2, 59, tzinfo=UTC)


def test_one_that_fails_is_an_alert_until_one_succeeds(
    db: Session, api: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.user.is_platform_admin = True
    set_backups(db, tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    real = dump.dump
    monkeypatch.setattr(dump, "dump", fail)
    asked = api.post("/api/v1/platform/backups")
    assert asked.status_code == 202, asked.text
    assert api.post("/api/v1/platform/backups").status_code == 409
    service.make(asked.json()["id"])
    (row,) = rows(db)
    assert row.state == "failed"
    (alert,) = db.scalars(select(Alert))
    assert (alert.kind, alert.resolved_at) == ("backup_failed", None)
    told = api.get("/api/v1/platform/backups").json()["data"]
    assert "has no room" in told[0]["error"]
    monkeypatch.setattr(dump, "dump", real)
    service.make(api.post("/api/v1/platform/backups").json()["id"])
    db.expire_all()
    assert alert.resolved_at


def test_the_page_shows_disks_and_backups(db: Session, client: Client) -> None:
    client.user.is_platform_admin = True
    facts = {"disk": {"total": 10**12, "free": 10**9, "floor": 10**10, "low": True}}
    make.make_node(db, id="gpu-7", facts=facts)
    db.commit()
    assert client.post("/admin/storage/backup").status_code == 303
    page = client.get("/admin/storage", headers={"accept-language": "en"}).text
    assert "gpu-7" in page
    assert "Below its floor" in page
    assert 'data-state="waiting"' in page


def test_below_the_floor_nothing_is_granted_and_somebody_is_told(
    db: Session, client: Client
) -> None:
    disk = {"total": 10**12, "free": 10**9, "floor": 10**10, "low": True}
    node = make.make_node(db, facts={"disk": disk})
    job = make.make_job(db, client.workspace, client.user)
    asked = {"owner_kind": "job", "owner_id": job.id, "workspace_id": client.workspace.id}
    cluster.ask(db, **asked, devices=1)
    db.commit()
    sweep.run(sweep.decide)
    sweep.run(watch.disks)
    db.expire_all()
    assert job.state == "queued"
    assert [one.subject for one in db.scalars(select(Alert))] == [node.id]
    node.facts = {"disk": disk | {"low": False}}
    db.commit()
    sweep.run(sweep.decide)
    sweep.run(watch.disks)
    db.expire_all()
    assert job.state == "scheduled"
    assert all(one.resolved_at for one in db.scalars(select(Alert)))


def test_uploads_are_refused_below_the_floor(
    api: Client, db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(total=10**12, free=5 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    small = b'{"messages": []}\n'
    refused = api.post("/api/v1/datasets", files={"file": ("a.jsonl", small)})
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
    piece = api.post("/api/v1/uploads", json={"file_name": "a", "size": 10})
    assert piece.status_code == 507
    platform.change(db, None, disk={"floor_gb": 1})
    db.commit()
    assert api.post("/api/v1/uploads", json={"file_name": "a", "size": 10}).status_code == 201


def test_what_trains_stops_once_the_database_knows(
    db: Session, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.home.mkdir(exist_ok=True)
    monkeypatch.setattr(disks, "disk", disks.Disk())
    drained: list[str] = []
    monkeypatch.setattr(disks.runs, "drain", drained.append)
    make.make_node(db, id="local")
    job = make.make_job(db, client.workspace, client.user, state="running", node_id="local")
    db.commit()
    sizes = {"free": 10**9}
    whole = shutil.disk_usage("/")._replace(total=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: whole._replace(**sizes))

    def beat() -> bool:
        low = disks.look()["low"]
        disks.tick("local")
        return bool(low)

    assert beat()
    assert drained == []  # not before the next beat: nothing new may come meanwhile
    assert beat()
    assert drained == ["local"]
    (event,) = db.scalars(select(JobEvent).where(JobEvent.job_id == job.id))
    assert event.kind == "disk"
    sizes["free"] = 11 * 10**9
    assert beat()  # above the floor, but not by a fifth
    sizes["free"] = 13 * 10**9
    assert not beat()
