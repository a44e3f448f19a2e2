"""Deleting what is in use, and undoing a delete."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app import storage
from app.db import now
from app.errors import Conflict
from app.models import service, sweep, trash
from app.models.tables import Model
from tests.conftest import Client
from tests.factories import make_model, make_workspace
from tests.models.files import write_adapter, write_model

URL = "/api/v1/models"


@pytest.fixture
def model(db: Session, api: Client, tmp_path: Path) -> Model:
    artefact = storage.put(write_model(tmp_path / "m"), "models/m")
    found: Model = make_model(db, api.workspace, name="mood", artefact=artefact)
    db.commit()
    return found


def aged(db: Session, model: Model, days: float) -> None:
    db.rollback()
    db.refresh(model)
    model.deleted_at = now() - timedelta(days=days)
    db.commit()


def test_who_uses_a_model_is_named(db: Session, api: Client, model: Model) -> None:
    service.pin(db, model.id, "deployment", "dep_1", "客服")
    service.pin(db, model.id, "job", "job_1", "tune 2")
    db.commit()
    answer = api.delete(f"{URL}/{model.id}")
    assert [answer.status_code, answer.json()["code"]] == [409, "model_in_use"]
    assert "“客服” (dep_1), “tune 2” (job_1)" in answer.json()["detail"]
    for number in range(9):
        service.pin(db, model.id, "job", f"job_{number}", "x")
    with pytest.raises(Conflict, match=r"… \(10\)"):
        service.delete(db, api.workspace.id, model.id)


def test_a_delete_is_undone(db: Session, api: Client, model: Model) -> None:
    assert api.get(f"{URL}/deleted").json()["data"] == []
    assert api.post(f"{URL}/{model.id}/restore").status_code == 409
    assert api.delete(f"{URL}/{model.id}").status_code == 204
    assert api.get(f"{URL}/{model.id}").status_code == 404
    (listed,) = api.get(f"{URL}/deleted").json()["data"]
    assert [listed["id"], listed["until"] > listed["deleted_at"]] == [model.id, True]
    make_model(db, api.workspace, name="mood")
    db.commit()
    back = api.post(f"{URL}/{model.id}/restore").json()
    assert back["name"] == "mood-2"
    assert api.get(f"{URL}/{model.id}").status_code == 200
    assert api.get(f"{URL}/deleted").json()["data"] == []


def test_an_adapter_comes_back_with_its_base_only(
    db: Session, api: Client, model: Model, tmp_path: Path
) -> None:
    artefact = storage.put(write_adapter(tmp_path / "a"), "models/a")
    lora = make_model(
        db, api.workspace, name="lora", kind="adapter", base_id=model.id, artefact=artefact
    )
    db.commit()
    for one in (lora, model):
        assert api.delete(f"{URL}/{one.id}").status_code == 204
    answer = api.post(f"{URL}/{lora.id}/restore")
    assert [answer.status_code, answer.json()["code"]] == [409, "base_deleted"]
    assert "mood" in answer.json()["detail"]
    for one in (model, lora):
        assert api.post(f"{URL}/{one.id}/restore").status_code == 200


def test_after_a_week_the_files_go(db: Session, api: Client, model: Model) -> None:
    twin = make_model(db, api.workspace, artefact=model.artefact)
    db.commit()
    api.delete(f"{URL}/{model.id}")
    aged(db, model, 6.9)
    sweep.clear_models()
    assert api.get(f"{URL}/deleted").json()["data"]
    aged(db, model, 7.1)
    assert api.get(f"{URL}/deleted").json()["data"] == []
    sweep.resend(db)
    assert ("workers.clear_models", (), "control") in db.info.pop("outbox")
    sweep.clear_models()
    assert storage.fetch("models/m").is_dir()  # another model has the same files
    db.refresh(model)
    assert model.purged_at
    assert api.post(f"{URL}/{model.id}/restore").status_code == 404
    api.delete(f"{URL}/{twin.id}")
    aged(db, twin, 8)
    sweep.clear_models()
    with pytest.raises(FileNotFoundError):
        storage.fetch("models/m")
    assert trash.purge(db) == []


def test_the_trash_is_the_workspaces_own(db: Session, api: Client, model: Model) -> None:
    other = make_model(db, make_workspace(db), deleted_at=now())
    db.commit()
    assert api.get(f"{URL}/deleted").json()["data"] == []
    assert api.post(f"{URL}/{other.id}/restore").status_code == 404


def test_templates_are_looked_for_once(db: Session, api: Client, model: Model) -> None:
    lost = make_model(db, api.workspace, artefact="models/none")
    db.commit()
    assert model.templated is None
    sweep.clear_models()
    for one, has in ((model, True), (lost, False)):
        db.refresh(one)
        assert one.templated is has
    sweep.resend(db)
    assert db.info.pop("outbox", []) == []
