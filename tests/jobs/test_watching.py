"""What one looks at while a job runs."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.cluster import deciding
from app.cluster import service as cluster
from app.cluster.tables import Device
from app.db import now
from app.jobs import history, loads, runs, service, waiting, watching
from app.jobs.tables import Job, JobLoad, JobMetric
from tests.conftest import Client
from tests.factories import make_job, make_model, make_workspace
from tests.jobs.people import owner
from tests.jobs.test_routes import RESULT, frames, one, soup, started


def ship(db: Session, job: Job, **what: Any) -> None:
    assert runs.ship(db, job.id, job.fence, **what)
    db.commit()


def losses(values: list[float]) -> list[dict[str, Any]]:
    return [{"step": at, "loss": one, "t": 100.0 + at} for at, one in enumerate(values, start=1)]


# -- verdict, pace, queue ------------------------------------------------------------------


def test_the_verdict_on_the_page_and_from_code(db: Session, api: Client) -> None:
    job = started(db, api)
    path = f"/api/v1/jobs/{job.id}/verdict"
    assert api.get(path).json()["code"] == "early"
    ship(db, job, metrics=losses([3 - at / 30 for at in range(60)]))
    found = api.get(path).json()
    assert found["code"] == "converging"
    assert "fell from" in found["advice"]
    page = api.get(f"/jobs/{job.id}/verdict")
    assert one(soup(page), "[data-verdict=converging]")
    assert one(soup(page), "#job-verdict")["hx-trigger"].startswith("every")
    runs.end(db, job.id, 1, outcome="succeeded", result=RESULT)
    db.commit()
    assert not one(soup(api.get(f"/jobs/{job.id}/verdict")), "#job-verdict").has_attr("hx-trigger")


def test_a_long_curve_is_judged_by_its_pieces(db: Session, api: Client) -> None:
    job = make_job(db, api.workspace, api.user)
    db.execute(
        insert(JobMetric),
        [
            {"job_id": job.id, "step": at, "fence": 1, "data": {"loss": 5 - at / 2000}}
            for at in range(1, 5001)
        ],
    )
    db.add(JobMetric(job_id=job.id, step=5001, fence=1, data={"loss": 1.0, "eval_loss": 2.5}))
    db.commit()
    rows = watching.curve(db, job.id)
    assert watching.POINTS / 2 < len(rows) <= watching.POINTS + 2
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert sum("eval_loss" in row for row in rows) == 1
    judged = watching.judged(db, job)
    assert judged
    assert judged.code == "converging"


def test_the_rest_of_the_time_bears_a_halt(db: Session, client: Client) -> None:
    job = started(db, client)
    times = [float(at) for at in range(50)]
    halted = [at if at < 25 else at + 3600 for at in times]  # the machine slept for an hour
    lines = [{"step": n, "loss": 1.0, "tokens": 5, "t": 1e6 + t} for n, t in enumerate(halted, 1)]
    ship(db, job, metrics=lines)
    assert history.pace(db, job.id).seconds_per_step == pytest.approx(1.0)


def test_the_place_in_the_queue(db: Session, client: Client) -> None:
    started(db, client)
    started(db, client)  # both devices are held by this workspace
    waits = []
    for team in (client.workspace, make_workspace(db)):
        job = make_job(db, team, owner(db, team))
        cluster.ask(db, owner_kind="job", owner_id=job.id, workspace_id=team.id, devices=1)
        waits.append(job)
    cluster.decide(db)
    db.commit()
    deciding.foresee(db)
    db.commit()
    seen = waiting.waits(db, waits)
    assert (seen[waits[0].id].position, seen[waits[0].id].queue) == (2, 2)
    assert seen[waits[1].id].position == 1  # who holds nothing comes first
    page = client.get(f"/jobs/{waits[0].id}", headers={"accept-language": "en"})
    assert "Number 2 of 2 in the queue" in one(soup(page), "[data-testid=job-reason]").text


# -- devices -------------------------------------------------------------------------------


def test_devices_are_remembered_and_thinned(
    db: Session, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started(db, client)
    (lease,) = cluster.leases_of(db, "job", job.id)
    device = db.get_one(Device, lease.device_id)
    device.stats = {"use": 55, "memory": 2**30, "temperature": 61}
    monkeypatch.setattr(loads, "MOST", 8)
    for _ in range(20):
        loads.record(db, "local")
    db.commit()
    count = db.scalar(select(func.count()).where(JobLoad.job_id == job.id))
    assert count
    assert 4 <= count < 8
    found = client.get(f"/api/v1/jobs/{job.id}/devices").json()["data"]
    assert found[0]["devices"] == {device.name: {"use": 55, "memory": 2**30}}
    assert [one["t"] for one in found] == sorted(one["t"] for one in found)
    runs.end(db, job.id, 1, outcome="succeeded", result=RESULT)
    loads.record(db, "local")  # the device is free: nothing of it is the job's any more
    db.commit()
    assert db.scalar(select(func.count()).where(JobLoad.job_id == job.id)) == count
    told = {kind: data for kind, _, data in frames(client.get(f"/jobs/{job.id}/stream").text)}
    assert len(told["devices"]) == count


# -- samples -------------------------------------------------------------------------------


def sample(step: int, prompt: str, tuned: str, base: str | None = None) -> dict[str, Any]:
    params = {"step": step, "prompt": prompt, "tuned": tuned} | ({"base": base} if base else {})
    return {"t": 100.0 + step, "kind": "sample", "message": "An answer.", "params": params}


def test_samples_stand_beside_the_base(db: Session, client: Client) -> None:
    job = started(db, client)
    said = [
        sample(10, "1+1?", "three", "<b>eh</b>"),
        sample(10, "Hi", "ho"),
        sample(20, "1+1?", "2"),
    ]
    ship(db, job, events=said)
    found = client.get(f"/api/v1/jobs/{job.id}/samples").json()["data"]
    assert [one["prompt"] for one in found] == ["1+1?", "Hi"]
    assert found[0]["base"] == "<b>eh</b>"
    assert [answer["step"] for answer in found[0]["answers"]] == [20, 10]
    page = client.get(f"/jobs/{job.id}/samples")
    assert "<b>eh" not in page.text
    shown = soup(page).select("[data-testid=sample-tuned]")
    assert [one.text for one in shown] == ["2", "ho"]
    events = one(soup(client.get(f"/jobs/{job.id}")), "#job-events").text
    assert "An answer" not in events


# -- the log -------------------------------------------------------------------------------


def test_the_whole_log_is_searched(db: Session, client: Client) -> None:
    job = started(db, client)
    text = (
        b"".join(b"step %d loss\n" % at for at in range(1000)) + b"\x1b[31m<i>LOSS</i> 100 %\x07\n"
    )
    ship(db, job, log=(0, text))
    page = client.get(f"/jobs/{job.id}/log/search?q=loss</i>")
    assert [mark.text for mark in soup(page).select("mark")] == ["LOSS</i>"]
    assert "<i>LOSS" not in page.text
    assert "\x1b" not in page.text
    assert one(soup(page), ".log-number").text == "1001"
    many = client.get(f"/jobs/{job.id}/log/search?q=loss", headers={"accept-language": "en"})
    assert "1,001 lines contain" in many.text
    assert len(soup(many).select("mark")) == watching.MATCHES
    assert not soup(client.get(f"/jobs/{job.id}/log/search?q=")).select("pre")


# -- stop and keep -------------------------------------------------------------------------


def test_stop_and_keep(db: Session, api: Client) -> None:
    job = started(db, api)
    early = api.post(f"/api/v1/jobs/{job.id}/finish")
    assert early.status_code == 409
    ship(db, job, status={"phase": "train", "step": 5, "total": 100})
    answer = api.post(f"/api/v1/jobs/{job.id}/finish").json()
    assert (answer["state"], answer["finishing"]) == ("running", True)
    assert api.post(f"/api/v1/jobs/{job.id}/finish").status_code == 200  # twice is once
    page = soup(api.get(f"/jobs/{job.id}"))
    assert not page.select("[data-testid=job-finish]")
    assert page.select("[data-testid=job-cancel]")
    runs.end(db, job.id, 1, outcome="succeeded", result=RESULT | {"steps": 6})
    db.commit()
    assert api.get(f"/api/v1/jobs/{job.id}").json()["step"] == 6
    assert api.post(f"/api/v1/jobs/{job.id}/finish").status_code == 409


def test_a_paused_job_goes_on_to_finish(db: Session, client: Client) -> None:
    job = started(db, client)
    ship(db, job, status={"phase": "train", "step": 5, "total": 100})
    service.pause(db, client.workspace.id, job.id)
    runs.end(db, job.id, 1, outcome="stopped")
    db.commit()
    assert client.post(f"/jobs/{job.id}/finish").status_code == 303
    found = db.get_one(Job, job.id, populate_existing=True)
    assert (found.state, found.finishing) == ("queued", True)


# -- comparing -----------------------------------------------------------------------------


def test_jobs_side_by_side(db: Session, client: Client) -> None:
    model = make_model(db, name="small")
    common = {"model_id": model.id, "state": "succeeded", "finished_at": now() + timedelta(hours=1)}
    first = make_job(
        db,
        client.workspace,
        client.user,
        name="one",
        spec={"epochs": 1.0, "lora_rank": 8},
        **common,
    )
    second = make_job(
        db, client.workspace, client.user, name="</script>", spec={"epochs": 2.0, "lora_rank": 8},
        outcome={"tokens": 900, "peak_memory": 2**30}, **common,
    )  # fmt: skip
    for job, loss in ((first, 2.0), (second, 1.5)):
        lines = [{"step": 1, "loss": loss, "t": 1.0}, {"step": 1, "eval_loss": loss + 1}]
        history.store_metrics(db, job.id, 1, lines)
    foreign = make_job(db, make_workspace(db), client.user)
    db.commit()
    page = soup(client.get(f"/jobs/compare?ids={first.id}&ids={second.id}&ids="))
    curves = json.loads(one(page, "#compare")["data-curves"])
    assert [job["name"] for job in curves] == ["one", "</script>"]
    assert curves[0]["rows"] == [{"step": 1, "loss": 2.0, "eval_loss": 3.0, "t": 1.0}]
    assert not one(page, "[data-testid=differs-epochs]").has_attr("data-same")
    assert one(page, "[data-testid=differs-lora_rank]").has_attr("data-same")
    found = client.get(f"/api/v1/jobs/compare?ids={first.id},{second.id}").json()
    values = {line["name"]: line["values"] for line in found["data"]}
    assert values["eval_loss"] == [3.0, 2.5]
    assert values["peak_memory"] == [None, 2**30]
    assert client.get(f"/jobs/compare?ids={first.id},{foreign.id}").status_code == 404
    assert client.get(f"/api/v1/jobs/compare?ids={foreign.id}").status_code == 404
    assert client.get("/api/v1/jobs/compare?ids=" + ",".join(map(str, range(9)))).status_code == 422
    empty = soup(client.get("/jobs/compare"))
    assert one(empty, ".empty a")["href"] == "/jobs"
