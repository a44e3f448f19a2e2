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
        ({"stage": "dpo"}, 422, "stage"),
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


# -- pages -------------------------------------------------------------------------------


def test_the_list_shows_state_and_reason(db: Session, client: Client) -> None:
    empty = soup(client.get("/jobs"))
    assert one(empty, ".empty a")["href"] == "/jobs/new"
    job = started(db, client, name="<i>mood</i>")
    page = soup(client.get("/jobs"))
    assert one(page, f"#row-{job.id} .state")["data-state"] == "running"
    assert "<i>mood</i>" in one(page, f"#row-{job.id} a.fw-medium").text
    assert one(page, "#job-rows")["hx-get"].startswith("/jobs/rows")
    assert not soup(client.get("/jobs?state=failed")).select("[data-testid=job-row]")
    fragment = client.get("/jobs/rows")
    assert "<html" not in fragment.text
    assert one(soup(fragment), "[data-testid=job-row]")["data-job"] == job.id


def test_the_form_starts_a_job(db: Session, client: Client) -> None:
    make_node(db)
    model, data = make_model(db), make_dataset(db, client.workspace, rows=100)
    db.commit()
    page = soup(client.get(f"/jobs/new?model={model.id}&dataset={data.dataset_id}"))
    assert one(page, "[data-testid=job-model] option[selected]")["value"] == model.id
    assert one(page, "[data-testid=job-dataset] option[selected]")["value"] == data.id
    assert "21" in one(page, "[data-testid=job-estimate]").text
    form = {"name": "", "model": model.id, "dataset": data.id, "method": "lora", "epochs": "1"}
    form |= {"validation": "", "gradient_checkpointing": "true", "learning_rate": "2e-4"}
    answer = client.post("/jobs", data=form)
    assert answer.status_code == 303, answer.text
    job = db.scalars(select(Job)).one()
    assert answer.headers["location"] == f"/jobs/{job.id}"
    assert (job.spec["epochs"], job.spec["gradient_checkpointing"]) == (1, True)
    again = soup(client.get(f"/jobs/new?again={job.id}"))
    assert one(again, "[name=epochs]")["value"] == "1.0"
    assert one(again, "[data-testid=job-dataset] option[selected]")["value"] == data.id


def test_the_form_keeps_what_was_typed_and_says_what_is_wrong(db: Session, client: Client) -> None:
    model, data = make_model(db), make_dataset(db, client.workspace)
    db.commit()
    form = {"name": "mood", "model": model.id, "dataset": data.id, "method": "lora"}
    answer = client.post("/jobs", data=form | {"lora_rank": "many", "epochs": "-1"})
    assert answer.status_code == 422
    page = soup(answer)
    assert one(page, "#e-epochs").text
    assert one(page, "#e-lora_rank").text
    assert one(page, "[name=lora_rank]")["value"] == "many"
    assert one(page, "[name=name]")["value"] == "mood"
    assert one(page, "details.job-advanced").has_attr("open")
    gone = client.post("/jobs", data=form | {"dataset": "ds_gone"})
    assert gone.status_code == 422
    assert one(soup(gone), "#e-dataset").text
    assert db.scalar(select(Job.id)) is None


def test_a_refusal_leaves_nothing_half_made(db: Session, client: Client) -> None:
    make_node(db)
    model, data = make_model(db), make_dataset(db, client.workspace)
    quotas.put(db, client.workspace.id, 0)
    db.commit()
    form = {"name": "mood", "model": model.id, "dataset": data.id, "method": "lora"}
    answer = client.post("/jobs", data=form, headers={"accept-language": "en"})
    assert answer.status_code == 422
    assert "quota is 0 devices" in answer.text
    assert db.scalar(select(Job.id)) is None


def test_the_estimate_follows_the_form(db: Session, client: Client) -> None:
    data = make_dataset(db, client.workspace, rows=1000)
    db.commit()
    query = f"/jobs/estimate?model=m&dataset={data.id}&method=lora&epochs=2&batch_size=10&name="
    answer = client.get(query)
    assert "<html" not in answer.text
    assert "200" in one(soup(answer), "[data-testid=job-estimate]").text
    assert not soup(client.get("/jobs/estimate?epochs=x")).select("[data-testid=job-estimate]")


def test_the_job_page(db: Session, client: Client) -> None:
    job = started(db, client, spec={"epochs": 3.0, "lora_rank": 16, "max_steps": None})
    runs.ship(
        db,
        job.id,
        1,
        log=(0, b"<script>alert(1)</script> \x1b[31mred\n"),
        metrics=[{"step": n, "loss": 3.0 - n, "tokens": 50, "t": 100.0 + n} for n in (1, 2)],
        status={"phase": "train", "step": 2, "total": 12},
    )
    db.commit()
    answer = client.get(f"/jobs/{job.id}", headers={"accept-language": "en"})
    page = soup(answer)
    assert one(page, "[data-testid=job-state]")["data-state"] == "running"
    assert one(page, "progress[value]")["max"] == "12"
    assert one(page, "[data-testid=job-loss]").text == "1"
    assert one(page, "[data-value=tokens]").text == "50"
    assert one(page, "[data-value=eta]").text == "10s"
    assert one(page, "[data-testid=job-log]").text == "<script>alert(1)</script> red\n"
    assert "<script>alert" not in answer.text
    assert page.select("[data-testid=job-pause]")
    assert page.select("[data-testid=job-cancel]")
    assert "LoRA rank" in one(page, "[data-testid=job-settings]").text
    assert len(page.select("#job-events li")) == 2
    live = soup(client.get(f"/jobs/{job.id}/live"))
    assert one(live, "#job-live")["data-state"] == "running"
    assert not live.select("#job-log")
    cursor = one(page, "#job")["data-after"]
    runs.ship(db, job.id, 1, log=(38, b"more\n"))
    runs.end(db, job.id, 1, outcome="succeeded", result=RESULT)
    db.commit()
    told = frames(client.get(f"/jobs/{job.id}/stream?after={cursor}").text)
    assert [kind for kind, _, _ in told] == ["event", "metrics", "log", "state", "done"]
    assert {kind: data for kind, _, data in told}["log"] == {"text": "more\n"}
    done = soup(client.get(f"/jobs/{job.id}"))
    result = one(done, "[data-testid=job-result]")["href"]
    assert result == f"/models/{db.get_one(Job, job.id, populate_existing=True).result_model_id}"
    assert not done.select("[data-testid=job-cancel]")
    log = client.get(f"/jobs/{job.id}/log")
    assert log.headers["content-disposition"].startswith("attachment")
    assert log.text.endswith("more\n")


def test_a_waiting_job_says_why(db: Session, client: Client) -> None:
    started(db, client)
    quotas.put(db, client.workspace.id, 1)
    job = make_job(db, client.workspace, client.user)
    cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=client.workspace.id, devices=1)
    cluster.decide(db)
    db.commit()
    page = soup(client.get(f"/jobs/{job.id}", headers={"accept-language": "en"}))
    reason = one(page, "[data-testid=job-reason]")
    assert reason["data-reason"] == "quota"
    assert "holds 1 of the 1 devices" in reason.text


def test_a_failed_job_leads_with_what_happened(db: Session, client: Client) -> None:
    job = started(db, client)
    error = {"code": "oom", "message": "<b>No memory</b>", "params": {}}
    runs.end(db, job.id, 1, outcome="failed", error=error)
    db.commit()
    page = soup(client.get(f"/jobs/{job.id}"))
    alert = one(page, "#job-live .alert-danger")
    assert "<b>No memory</b>" in alert.text
    assert alert.select(f'a[href="/jobs/new?again={job.id}"]')


def test_buttons_work_without_script(db: Session, client: Client) -> None:
    job = started(db, client)
    answer = client.post(f"/jobs/{job.id}/pause")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job.id}")
    page = soup(client.get(f"/jobs/{job.id}"))
    assert one(page, "[data-testid=job-state]")["data-state"] == "pausing"
    client.post(f"/jobs/{job.id}/cancel")
    page = soup(client.get(f"/jobs/{job.id}"))
    assert one(page, "[data-testid=job-state]")["data-state"] == "cancelling"


def test_the_script_starts_the_same_job(db: Session, client: Client) -> None:
    job = make_job(db, client.workspace, client.user, name="JSON\n'$(id)", spec={"epochs": 2.0})
    db.commit()
    text = client.get(f"/jobs/{job.id}/script").text
    body = json.loads(text.split("<<'JSON'\n")[1].rsplit("\nJSON\n")[0])
    assert body["hyperparameters"] == {"epochs": 2.0}
    assert body["name"] == job.name


def test_jobs_of_a_dataset_and_a_merge_from_a_page(db: Session, client: Client) -> None:
    job = make_job(db, client.workspace, client.user)
    base = make_model(db)
    adapter = make_model(db, client.workspace, kind="adapter", base_id=base.id)
    foreign = make_dataset(db, make_workspace(db))
    db.commit()
    using = client.get(f"/jobs/using/{job.dataset_version_id}")
    assert one(soup(using), "[data-testid=job-row]")["data-job"] == job.id
    assert "<html" not in using.text
    assert client.get(f"/jobs/using/{foreign.id}").status_code == 404
    answer = client.post("/jobs/merge", data={"model": adapter.id})
    assert answer.status_code == 303
    merge = db.scalars(select(Job).where(Job.stage == "merge")).one()
    assert client.get(answer.headers["location"]).status_code == 200
    assert merge.model_id == adapter.id
