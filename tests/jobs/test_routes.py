"""Pages and JSON of jobs."""

import json
import re
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.jobs import runs
from app.jobs.tables import Job
from app.quotas import service as quotas
from tests.conftest import Client
from tests.factories import make_dataset, make_job, make_model, make_node, make_workspace

RESULT = {"kind": "adapter", "artefact": "models/x", "libraries": {}, "facts": {}}


def soup(response: Any) -> BeautifulSoup:
    return BeautifulSoup(response.text, "lxml")


def one(page: BeautifulSoup, selector: str) -> Tag:
    found = page.select(selector)
    assert len(found) == 1, f"{selector}: {len(found)}"
    return found[0]


def started(db: Session, client: Client, **more: Any) -> Job:
    """A running job of the client's workspace, under fence 1."""
    if cluster.leases_of(db, "job", "-") == [] and not db.scalar(select(cluster.Node.id)):
        make_node(db, id="local")
    job = make_job(db, client.workspace, client.user, **more)
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=client.workspace.id, devices=1)
    (grant,) = cluster.decide(db)
    runs.grant(db, job.id, grant.node_id)
    runs.mark_started(db, job.id, job.fence, 4711, 1.5)
    db.commit()
    return job


def frames(text: str) -> list[tuple[str, str, Any]]:
    """(event, id, data) of each server-sent event."""
    found = re.findall(r"event: (\w+)\nid: ([\d.]+)\ndata: (.*)\n\n", text)
    return [(event, cursor, json.loads(data)) for event, cursor, data in found]


# -- the JSON API ------------------------------------------------------------------------


def test_a_job_from_code(db: Session, api: Client) -> None:
    make_node(db)
    model, data = make_model(db, name="danlu-starter"), make_dataset(db, api.workspace)
    db.commit()
    body = {"name": "mood", "model": "danlu-starter", "dataset": data.dataset_id}
    answer = api.post(
        "/api/v1/jobs", json=body | {"hyperparameters": {"epochs": 1, "lora_rank": 8}}
    )
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["state"], job["model"], job["dataset"]) == ("queued", model.id, data.id)
    assert (job["hyperparameters"]["epochs"], job["hyperparameters"]["lora_rank"]) == (1, 8)
    assert job["hyperparameters"]["learning_rate"] == 2e-4
    listed = api.get("/api/v1/jobs").json()
    assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([job["id"]], False)
    assert api.get(f"/api/v1/jobs/{job['id']}").json()["name"] == "mood"
    assert api.post(f"/api/v1/jobs/{job['id']}/pause").json()["state"] == "paused"
    assert api.post(f"/api/v1/jobs/{job['id']}/resume").json()["state"] == "queued"
    assert api.post(f"/api/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    late = api.post(f"/api/v1/jobs/{job['id']}/resume")
    assert (late.status_code, late.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"model": "gpt-9"}, 404, "model"),
        ({"dataset": "ds_none"}, 404, "dataset"),
        ({"method": "magic"}, 422, "method"),
        ({"stage": "ppo"}, 422, "stage"),
        ({"hyperparameters": {"epochs": 0}}, 422, "hyperparameters.epochs"),
        ({"hyperparameters": {"colour": 1}}, 422, "hyperparameters.colour"),
        ({"hyperparameters": [1]}, 422, "hyperparameters"),
        ({"workspace_id": "ws_x"}, 422, "workspace_id"),
        ({"name": "x" * 65}, 422, "name"),
    ],
)
def test_what_is_wrong_is_named(
    db: Session, api: Client, change: dict[str, Any], status: int, field: str
) -> None:
    body = {"model": make_model(db).id, "dataset": make_dataset(db, api.workspace).id}
    db.commit()
    answer = api.post("/api/v1/jobs", json=body | change)
    assert answer.status_code == status, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert db.scalar(select(Job.id)) is None


def test_a_draft_says_what_to_do(db: Session, api: Client) -> None:
    draft = make_dataset(db, api.workspace, status="draft")
    body = {"model": make_model(db).id, "dataset": draft.id}
    db.commit()
    answer = api.post("/api/v1/jobs", json=body, headers={"accept-language": "en"})
    assert answer.status_code == 409
    assert "Publish it first" in answer.json()["detail"]


def test_quota_is_the_reason(db: Session, api: Client) -> None:
    started(db, api)
    quotas.put(db, api.workspace.id, 1)
    waiting = make_job(db, api.workspace, api.user)
    cluster.ask(db, owner_kind="job", owner_id=waiting.id, workspace_id=api.workspace.id, devices=1)
    cluster.decide(db)
    db.commit()
    assert api.get(f"/api/v1/jobs/{waiting.id}").json()["reason"] == "quota"


def test_log_and_metrics(db: Session, api: Client) -> None:
    job = started(db, api)
    runs.ship(db, job.id, 1, log=(0, "损失 2.0\nhalf".encode()), metrics=[{"step": 1, "loss": 2.0}])
    db.commit()
    answer = api.get(f"/api/v1/jobs/{job.id}/log")
    assert (answer.text, answer.headers["x-next-offset"]) == ("损失 2.0\n", "11")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert api.get(f"/api/v1/jobs/{job.id}/log?offset=11").text == ""
    assert api.get(f"/api/v1/jobs/{job.id}/metrics").json() == {
        "data": [{"step": 1, "loss": 2.0}],
        "has_more": False,
    }
    assert api.get(f"/api/v1/jobs/{job.id}/log?offset=-1").status_code == 422


def test_events_end_with_done_and_resume_where_one_was(db: Session, api: Client) -> None:
    job = started(db, api)
    runs.ship(
        db,
        job.id,
        1,
        log=(0, b"<b>one</b>\ntwo\n"),
        metrics=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
        status={"phase": "train", "step": 2, "total": 2},
    )
    runs.end(db, job.id, 1, outcome="succeeded", result=RESULT)
    db.commit()
    answer = api.get(f"/api/v1/jobs/{job.id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = frames(answer.text)
    kinds = [kind for kind, _, _ in told]
    assert kinds == ["event"] * 3 + ["metrics", "log", "state", "done"]
    by_kind = {kind: data for kind, _, data in told}
    assert by_kind["log"] == {"text": "<b>one</b>\ntwo\n"}
    assert [row["loss"] for row in by_kind["metrics"]] == [2.0, 1.0]
    assert by_kind["state"]["state"] == by_kind["done"]["state"] == "succeeded"
    last = told[-1][1]
    again = api.get(f"/api/v1/jobs/{job.id}/events", headers={"last-event-id": last})
    assert [kind for kind, _, _ in frames(again.text)] == ["state", "done"]
    middle = api.get(f"/api/v1/jobs/{job.id}/events", headers={"last-event-id": told[2][1]})
    assert [kind for kind, _, _ in frames(middle.text)] == ["metrics", "log", "state", "done"]
    junk = api.get(f"/api/v1/jobs/{job.id}/events", headers={"last-event-id": "1.x"})
    assert len(frames(junk.text)) == len(told)


def test_a_merge_from_code(db: Session, api: Client) -> None:
    make_node(db)
    base = make_model(db)
    adapter = make_model(db, api.workspace, kind="adapter", base_id=base.id)
    db.commit()
    answer = api.post(f"/api/v1/models/{adapter.id}/merge")
    assert answer.status_code == 201
    assert answer.json()["stage"] == "merge"
    named = api.post(f"/api/v1/models/{adapter.id}/merge", json={"name": "whole"})
    assert named.json()["name"] == "whole"
    assert api.post(f"/api/v1/models/{base.id}/merge").status_code == 422


def test_the_schema_tells_ranges_and_defaults(api: Client) -> None:
    schema = api.get("/api/v1/jobs/schema").json()
    assert schema["properties"]["lora_rank"]["maximum"] == 512


def test_a_failure_is_told_in_the_readers_words(db: Session, api: Client) -> None:
    job = started(db, api)
    error = {"code": "oom", "message": "Needs %(need)s GiB.", "params": {"need": 9}}
    runs.end(db, job.id, 1, outcome="failed", error=error)
    db.commit()
    told = api.get(f"/api/v1/jobs/{job.id}").json()
    assert told["error"] == {"code": "oom", "message": "Needs 9 GiB."}
    broken = make_job(
        db,
        api.workspace,
        api.user,
        state="failed",
        error={"code": "x", "message": "100% of %(a)s", "params": {"b": {}}},
    )
    db.commit()
    assert api.get(f"/api/v1/jobs/{broken.id}").json()["error"]["message"] == "100% of %(a)s"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/jobs/{id}",
        "/api/v1/jobs/{id}/log",
        "/api/v1/jobs/{id}/metrics",
        "/api/v1/jobs/{id}/events",
        "/jobs/{id}",
        "/jobs/{id}/live",
        "/jobs/{id}/log",
        "/jobs/{id}/script",
        "/jobs/{id}/stream",
    ],
)
def test_a_foreign_job_is_nowhere(db: Session, client: Client, path: str) -> None:
    other = make_workspace(db)
    job = make_job(db, other, client.user)
    db.commit()
    for job_id in (job.id, "job_none"):
        assert client.get(path.format(id=job_id)).status_code == 404
