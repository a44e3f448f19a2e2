"""Checkpoints: what a node says it has, and publishing one through the API."""

import json
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.cluster import service as cluster
from app.config import settings
from app.jobs import checkpoints, runs
from app.jobs.checkpoints import Found
from app.jobs.tables import Job, JobCheckpoint
from app.models.tables import Model, ModelPin
from tests.conftest import Client
from tests.factories import make_dataset, make_job, make_model, make_node, make_workspace
from tests.jobs.people import owner
from tests.models.files import write_adapter, write_model
from workers import checkpoints as node
from workers.starting import directory_of


@pytest.fixture
def job(db: Session, client: Client, tmp_path: Path) -> Job:
    make_node(db, id=settings.node)
    base = make_model(
        db, name="starter", artefact=storage.put(write_model(tmp_path / "base"), "models/base")
    )
    made = make_job(
        db,
        client.workspace,
        owner(db, client.workspace),
        name="mood",
        model_id=base.id,
        state="running",
        node_id=settings.node,
        fence=2,
    )
    db.commit()
    node.said = None
    return made


def write_checkpoint(job: Job, step: int, fence: int = 2, **progress: object) -> Path:
    directory = directory_of(job.id, fence) / f"checkpoints/checkpoint-{step}"
    write_adapter(directory)
    (directory / "optimizer.pt").write_bytes(b"never opened, never copied")
    (directory / "complete").write_text(json.dumps({"loss": 0.5, "eval_loss": None} | progress))
    return directory


def listed(client: Client, job: Job) -> list[tuple[int, str]]:
    data = client.get(f"/api/v1/jobs/{job.id}/checkpoints").json()["data"]
    return [(one["step"], one["state"]) for one in data]


def test_the_list_follows_what_stands_on_the_node(client: Client, job: Job) -> None:
    write_checkpoint(job, 10, fence=1)
    write_checkpoint(job, 20)
    partial = write_checkpoint(job, 30)
    (partial / "complete").unlink()
    node.tick(settings.node)
    assert listed(client, job) == [(20, "kept"), (10, "kept")]
    (partial / "complete").write_text('{"loss": 0.25, "eval_loss": 0.75}')
    (directory_of(job.id, 1) / "checkpoints/checkpoint-10/complete").unlink()
    node.tick(settings.node)
    assert listed(client, job) == [(30, "kept"), (20, "kept")]
    newest = client.get(f"/api/v1/jobs/{job.id}/checkpoints").json()["data"][0]
    assert (newest["loss"], newest["eval_loss"], newest["node"]) == (0.25, 0.75, settings.node)
    node.said = None  # the node starts again, and one more went meanwhile
    (directory_of(job.id, 2) / "checkpoints/checkpoint-20/complete").unlink()
    node.tick(settings.node)
    assert listed(client, job) == [(30, "kept")]


def test_a_checkpoint_becomes_a_model(client: Client, db: Session, job: Job) -> None:
    write_checkpoint(job, 20, eval_loss=0.75)
    words = directory_of(job.id, 2) / "words"
    words.mkdir()
    (words / "chat_template.jinja").write_text("trained with")
    (words / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    node.tick(settings.node)
    url = f"/api/v1/jobs/{job.id}/checkpoints/20/publish"
    asked = client.post(url, json={"name": "halfway"})
    assert (asked.status_code, asked.json()["state"]) == (202, "publishing")
    assert client.post(url).json()["state"] == "publishing"
    node.tick(settings.node)
    [row] = client.get(f"/api/v1/jobs/{job.id}/checkpoints").json()["data"]
    assert (row["state"], row["error"]) == ("published", None)
    model = db.get_one(Model, row["model"])
    assert (model.name, model.kind, model.base_id, model.job_id) == (
        "halfway", "adapter", job.model_id, job.id,
    )  # fmt: skip
    assert model.lineage["measured"] == {"loss": 0.5, "eval_loss": 0.75, "step": 20}
    files = storage.fetch(model.artefact)
    assert {path.name for path in files.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
    }
    config = json.loads((files / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "starter"
    assert client.post(url).json()["model"] == model.id  # it is one already
    page = client.get(f"/models/{model.id}").text
    assert "checkpoint of step 20" in page


def test_what_goes_meanwhile_is_said(client: Client, db: Session, job: Job) -> None:
    directory = write_checkpoint(job, 20)
    node.tick(settings.node)
    url = f"/api/v1/jobs/{job.id}/checkpoints/20/publish"
    assert client.post(url).status_code == 202
    (directory / "complete").unlink()
    node.tick(settings.node)
    [row] = client.get(f"/api/v1/jobs/{job.id}/checkpoints").json()["data"]
    assert row["error"] == {
        "code": "checkpoint_gone",
        "message": "The checkpoint was removed before it could be published.",
    }
    assert client.post(f"/api/v1/jobs/{job.id}/checkpoints/21/publish").status_code == 404
    assert "removed before" in client.get(f"/jobs/{job.id}/kept").text
    assert db.query(Model).filter_by(job_id=job.id).count() == 0


def test_the_button_on_the_page(client: Client, job: Job) -> None:
    write_checkpoint(job, 20, eval_loss=0.75)
    node.tick(settings.node)
    part = BeautifulSoup(client.get(f"/jobs/{job.id}/kept").text, "lxml")
    action = str(part.select_one("form")["action"])
    assert part.select_one("[data-step='20'] .badge").text == "best"
    assert client.post(action, headers={"origin": settings.url}).status_code == 303
    part = BeautifulSoup(client.get(f"/jobs/{job.id}/kept").text, "lxml")
    assert part.select_one("[data-testid=job-kept]")["hx-get"] == f"/jobs/{job.id}/kept"
    node.tick(settings.node)
    assert "/models/mdl_" in client.get(f"/jobs/{job.id}/kept").text
    assert f"/api/v1/jobs/{job.id}/train.py" in client.get(f"/jobs/{job.id}").text


def test_weights_that_lie_are_refused(client: Client, job: Job) -> None:
    directory = write_checkpoint(job, 20)
    (directory / "adapter_model.safetensors").write_bytes(b"x" * 20)
    node.tick(settings.node)
    client.post(f"/api/v1/jobs/{job.id}/checkpoints/20/publish")
    node.tick(settings.node)
    [row] = client.get(f"/api/v1/jobs/{job.id}/checkpoints").json()["data"]
    assert row["state"] == "failed"
    assert "safetensors" in row["error"]["message"]


def test_another_nodes_checkpoints_stay(db: Session, client: Client, job: Job) -> None:
    make_node(db, id="elsewhere")
    one = Found(step=5, fence=1, loss=1.0, eval_loss=None, size=3)
    checkpoints.keep(db, "elsewhere", job.id, [one])
    checkpoints.keep(db, settings.node, job.id, [Found(9, 2, 0.5, None, 3)])
    checkpoints.keep(db, settings.node, job.id, [])
    assert [row.step for row in checkpoints.of_job(db, job)] == [5]
    assert checkpoints.on_node(db, settings.node) == set()
    assert db.get_one(JobCheckpoint, (job.id, 5)).node_id == "elsewhere"


# -- as the start of another job ---------------------------------------------------------


def chained(client: Client, db: Session, job: Job, step: int = 20, **more: Any) -> Any:
    data = make_dataset(db, client.workspace)
    db.commit()
    body = {"model": f"{job.id}/checkpoint-{step}", "dataset": data.id, "name": "on"} | more
    return client.post("/api/v1/jobs", json=body)


def test_a_job_starts_from_a_checkpoint(client: Client, db: Session, job: Job) -> None:
    write_checkpoint(job, 20)
    node.tick(settings.node)
    page = BeautifulSoup(client.get(f"/jobs/{job.id}/kept").text, "lxml")
    link = str(page.select_one("[data-testid=checkpoint-tune]")["href"])
    form = BeautifulSoup(client.get(link).text, "lxml")
    chosen = form.select_one("#f-model option[selected]")
    assert (chosen["value"], chosen.text) == (f"{job.id}/checkpoint-20", "mood · step 20")
    answer = chained(client, db, job)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["state"], made["reason"]) == ("queued", "checkpoint")
    assert made["model"] == f"{job.id}/checkpoint-20"
    assert listed(client, job) == [(20, "publishing")]
    assert "Waiting for the checkpoint" in client.get(f"/jobs/{made['id']}").text
    follower = db.get_one(Job, made["id"])
    assert cluster.waiting(db, "job", follower.id) is None
    assert [pin.model_id for pin in pins_of(db, follower)] == [job.model_id]
    db.commit()
    node.tick(settings.node)
    db.expire_all()
    model = db.get_one(Model, follower.model_id)
    assert (model.kind, model.job_id, follower.start) == ("adapter", job.id, None)
    assert [pin.model_id for pin in pins_of(db, follower)] == [model.id]
    assert cluster.waiting(db, "job", follower.id) is not None
    runs.grant(db, follower.id, settings.node)
    facts = runs.start_facts(db, follower.id, 1)
    assert facts is not None
    assert (facts.adapter, facts.base) == (model.artefact, "models/base")
    result = {"kind": "adapter", "artefact": "models/two", "facts": {}}
    made_of_it = runs.model_of(db, follower, result, "on")
    assert (made_of_it.parent_id, made_of_it.base_id) == (model.id, job.model_id)
    db.rollback()
    again = chained(client, db, job).json()  # it is a model by now
    assert (again["model"], again["reason"]) == (model.id, "")


def test_whole_weights_are_a_start_as_well(
    client: Client, db: Session, job: Job, tmp_path: Path
) -> None:
    job.method = "full"
    directory = directory_of(job.id, 2) / "checkpoints/checkpoint-20"
    write_model(directory)
    (directory / "complete").write_text("{}")
    db.commit()
    node.tick(settings.node)
    asked = {"method": "lora", "hyperparameters": {"chain": "stack", "use_dora": True}}
    follower = chained(client, db, job, **asked).json()
    node.tick(settings.node)
    model = db.get_one(Model, db.get_one(Job, follower["id"]).model_id)
    assert (model.kind, model.base_id) == ("merged", job.model_id)


def test_an_adapter_from_a_checkpoint_obeys_the_rules_of_adapters(
    client: Client, db: Session, job: Job
) -> None:
    write_checkpoint(job, 20)
    node.tick(settings.node)
    asked = {"hyperparameters": {"chain": "stack", "use_dora": True}}
    refused = chained(client, db, job, **asked)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["hyperparameters.use_dora"]
    assert listed(client, job) == [(20, "kept")]


def test_the_sum_is_published_where_another_adapter_is_trained(
    client: Client, db: Session, job: Job
) -> None:
    directory = write_checkpoint(job, 20)
    write_adapter(directory / "whole/adapter")
    (directory / "adapter_model.safetensors").write_bytes(b"what is added alone")
    node.tick(settings.node)
    client.post(f"/api/v1/jobs/{job.id}/checkpoints/20/publish")
    node.tick(settings.node)
    assert listed(client, job) == [(20, "published")]


@pytest.mark.parametrize("stands", [True, False])
def test_a_start_that_is_gone(client: Client, db: Session, job: Job, stands: bool) -> None:
    directory = write_checkpoint(job, 20)
    node.tick(settings.node)
    if not stands:  # the node has said so
        (directory / "complete").unlink()
        node.tick(settings.node)
        refused = chained(client, db, job)
        assert (refused.status_code, refused.json()["code"]) == (404, "checkpoint_not_found")
        assert [error["field"] for error in refused.json()["errors"]] == ["model"]
        return
    first, paused = chained(client, db, job).json(), chained(client, db, job).json()
    assert client.post(f"/api/v1/jobs/{paused['id']}/pause").json()["state"] == "paused"
    (directory / "complete").unlink()
    node.tick(settings.node)
    told = client.get(f"/api/v1/jobs/{first['id']}").json()
    assert (told["state"], told["error"]["code"]) == ("failed", "checkpoint_gone")
    assert pins_of(db, db.get_one(Job, first["id"])) == []
    node.tick(settings.node)
    node.said = None
    node.tick(settings.node)
    resumed = client.post(f"/api/v1/jobs/{paused['id']}/resume")
    assert resumed.json()["code"] == "checkpoint_not_found"
    assert client.get(f"/api/v1/jobs/{paused['id']}").json()["state"] == "paused"


def test_nobody_starts_from_what_is_not_theirs(client: Client, db: Session, job: Job) -> None:
    foreign = make_job(db, make_workspace(db), owner(db, client.workspace), model_id=job.model_id)
    db.add(JobCheckpoint(job_id=foreign.id, step=20, fence=1, node_id=settings.node, size=1))
    db.commit()
    assert chained(client, db, foreign).status_code == 404
    assert f"{foreign.id}/checkpoint" not in client.get("/jobs/new").text


def test_a_reward_adapter_is_no_start(client: Client, db: Session, job: Job) -> None:
    job.stage = "reward"
    write_checkpoint(job, 20)
    db.commit()
    node.tick(settings.node)
    assert chained(client, db, job).status_code == 409
    assert client.post(f"/api/v1/jobs/{job.id}/checkpoints/20/publish").status_code == 409


def test_a_dead_node_publishes_nothing(client: Client, db: Session, job: Job) -> None:
    write_checkpoint(job, 20)
    node.tick(settings.node)
    follower = chained(client, db, job).json()
    checkpoints.lost(db, settings.node)
    db.commit()
    assert client.get(f"/api/v1/jobs/{follower['id']}").json()["state"] == "failed"


def pins_of(db: Session, job: Job) -> list[ModelPin]:
    return list(db.scalars(select(ModelPin).where(ModelPin.owner_id == job.id)))
