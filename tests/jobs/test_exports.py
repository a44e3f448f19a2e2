"""Exports as GGUF: from a model's page to the file."""

import io
import tarfile
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app import storage
from app.cluster import service as cluster
from app.config import settings
from app.errors import Conflict, Invalid
from app.jobs import exports, runs, service
from app.models.tables import Model
from tests.conftest import Client
from tests.factories import make_model, make_node, make_workspace
from tests.jobs.people import principal


@pytest.fixture
def adapter(db: Session, client: Client) -> Model:
    make_node(db, id="local")
    base = make_model(db, name="starter")
    found = make_model(db, client.workspace, name="mood", kind="adapter", base_id=base.id, parent_id=base.id)  # fmt: skip
    db.commit()
    return found


def test_an_export_from_the_models_page_to_its_file(
    client: Client, db: Session, adapter: Model, tmp_path: Path
) -> None:
    page = BeautifulSoup(client.get(f"/models/{adapter.id}").text, "lxml")
    assert page.select_one("[data-testid=model-exports]")["hx-get"] == f"/jobs/exports/{adapter.id}"
    origin = {"origin": settings.url}
    asked = client.post("/jobs/export", data={"model": adapter.id, "format": "f16"}, headers=origin)
    job = service.get(db, client.workspace.id, asked.headers["location"].rpartition("/")[2])
    assert (job.stage, job.spec, job.name) == ("export", {"format": "f16"}, "mood-f16")
    (grant,) = cluster.decide(db)
    runs.grant(db, grant.owner_id, grant.node_id)
    facts = runs.start_facts(db, job.id, job.fence)
    assert facts is not None
    assert (facts.stage, facts.format, facts.hyperparameters) == ("export", "f16", {})
    assert facts.adapter == adapter.artefact
    db.commit()
    assert client.get(f"/api/v1/jobs/{job.id}/download").status_code == 409
    (tmp_path / "export").mkdir()
    (tmp_path / "export/model.gguf").write_bytes(b"GGUF....")
    storage.put(tmp_path / "export", exports.artefact(job))
    runs.end(db, job.id, job.fence, outcome="succeeded", result={"kind": "export", "bytes": 8})
    db.commit()
    assert job.result_model_id is None
    part = BeautifulSoup(client.get(f"/jobs/exports/{adapter.id}").text, "lxml")
    href = str(part.select_one("[data-testid=export-download]")["href"])
    got = client.get(href)
    assert 'filename="mood-f16.tar"' in got.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(got.content)) as tar:
        assert tar.extractfile("mood-f16/model.gguf").read() == b"GGUF...."
        assert "mood-f16/README.md" in tar.getnames()
    listed = client.get(f"/api/v1/models/{adapter.id}/exports").json()["data"]
    assert [(one["job"], one["bytes"], one["state"]) for one in listed] == [
        (job.id, 8, "succeeded")
    ]


def test_what_is_on_its_way_is_not_started_twice(db: Session, client: Client, adapter: Model):
    who = principal(db, client.workspace)
    first = exports.create(db, who, adapter.id, "q8_0")
    assert exports.create(db, who, adapter.id, "q8_0") is first
    assert exports.create(db, who, adapter.id, "f16") is not first
    with pytest.raises(Conflict, match="cannot be paused"):
        service.pause(db, client.workspace.id, first.id)


def test_what_llama_cpp_does_not_know_is_refused_at_once(db: Session, client: Client) -> None:
    strange = make_model(db, client.workspace, architecture="MambaForCausalLM")
    with pytest.raises(Invalid, match="MambaForCausalLM"):
        exports.create(db, principal(db, client.workspace), strange.id, "f16")
    db.commit()
    assert "stays in safetensors" in client.get(f"/jobs/exports/{strange.id}").text


def test_another_workspaces_export_is_not_found(db: Session, client: Client, adapter: Model):
    other = make_workspace(db)
    theirs = make_model(db, other)
    db.commit()
    assert client.get(f"/jobs/exports/{theirs.id}").status_code == 404
    assert client.get(f"/api/v1/models/{theirs.id}/exports").status_code == 404
