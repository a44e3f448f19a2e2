"""The pages of jobs."""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.cluster import service as cluster
from app.jobs import runs
from app.jobs.tables import Job
from app.quotas import service as quotas
from tests.conftest import Client
from tests.factories import make_dataset, make_job, make_model, make_node, make_workspace
from tests.jobs.test_routes import RESULT, frames, one, soup, started

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
    assert "18" in one(page, "[data-testid=job-estimate]").text  # a tenth is held back
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
    data, model = make_dataset(db, client.workspace, rows=1000), make_model(db)
    db.commit()
    query = f"/jobs/estimate?model={model.id}&dataset={data.id}&method=lora&epochs=2&batch_size=10&name="
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
