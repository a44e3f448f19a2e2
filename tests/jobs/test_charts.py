"""The charts of a job and of several, in a real browser."""

import math

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from app.db import now
from app.jobs import history
from app.jobs.tables import Job, JobCheckpoint, JobEvent, JobLoad
from tests.dashboard.test_manners import (  # noqa: F401 - fixtures
    Admin,
    address,
    admin,
    browser,
    page,
)
from tests.factories import make_job, make_node

pytestmark = pytest.mark.slow


@pytest.fixture
def jobs(db: Session, admin: Admin) -> list[Job]:  # noqa: F811
    """Two runs that are over, with every kind of metric."""
    made = []
    node = make_node(db)
    for number, speed in enumerate((3, 6), start=1):
        job = make_job(
            db, admin.workspace, admin.user, name=f"run {number}", state="succeeded", step=200,
            total=200, started_at=now(), finished_at=now(), spec={"epochs": float(number)},
        )  # fmt: skip
        lines = [
            {
                "step": n, "epoch": n / 100, "loss": 0.3 + 2 * math.exp(-speed * n / 200), "lr": 1e-4,
                "grad_norm": 1.0, "accuracy": n / 200, "rewards_chosen": n / 100,
                "rewards_rejected": -n / 100, "margin": n / 50, "t": 1.7e9 + n,
            }
            for n in range(1, 201)
        ]  # fmt: skip
        lines += [{"step": n, "eval_loss": 1.0} for n in (100, 200)]
        history.store_metrics(db, job.id, 1, lines)
        history.store_log(db, job.id, 1, 0, b"loss <b>1</b>\nstep 2\n")
        data = {"cpu:0": {"use": 50, "memory": 2**31}}
        db.add_all([JobLoad(job_id=job.id, data=data) for _ in range(3)])
        for step in (100, 200):
            params = {"step": step, "prompt": "1+1?", "base": "3", "tuned": str(step)}
            db.add(JobEvent(job_id=job.id, fence=1, kind="sample", message="x", params=params))
            saved = {"job_id": job.id, "step": step, "fence": 1, "node_id": node.id, "size": 2**20}
            db.add(JobCheckpoint(**saved, loss=0.3, eval_loss=1.0))
        made.append(job)
    db.commit()
    return made


def test_the_charts_of_a_job(page, jobs):  # noqa: F811
    page.goto(f"/jobs/{jobs[0].id}")
    expect(page.locator("[data-figure]:visible")).to_have_count(7)
    expect(page.locator("[data-figure]:visible canvas")).to_have_count(7)
    expect(page.get_by_test_id("job-verdict")).to_have_attribute("data-verdict", "converging")
    loss = page.get_by_test_id("job-chart").locator(".u-over")
    box = loss.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page.get_by_test_id("chart-reset")).to_be_enabled()
    first = int(page.get_by_test_id("chart-from").input_value())
    last = int(page.get_by_test_id("chart-to").input_value())
    assert 40 < first < 65
    assert 85 < last < 115
    page.get_by_test_id("chart-reset").click()
    expect(page.get_by_test_id("chart-from")).to_have_value("")
    page.get_by_test_id("chart-from").fill("10")  # the same by keyboard
    page.get_by_test_id("chart-to").fill("20")
    page.get_by_test_id("chart-to").press("Tab")
    expect(page.get_by_test_id("chart-reset")).to_be_enabled()
    page.get_by_test_id("chart-smoothing").press("Home")
    expect(page.locator("#chart-bar output")).to_have_text("0.00")
    page.get_by_test_id("chart-log").check()
    page.reload()
    expect(page.locator("#chart-bar output")).to_have_text("0.00")  # remembered


def test_tabs_search_samples_and_checkpoints(page, jobs):  # noqa: F811
    page.goto(f"/jobs/{jobs[0].id}")
    page.get_by_test_id("job-tab-charts").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id("job-log")).to_be_visible()
    page.get_by_test_id("job-log-search").fill("<B>1")
    expect(page.locator("#log-found mark")).to_have_text("<b>1")
    page.get_by_test_id("job-tab-samples").click()
    expect(page.get_by_test_id("sample-tuned")).to_have_text("200")
    page.get_by_test_id("job-tab-checkpoints").click()
    expect(page.get_by_test_id("checkpoint-row")).to_have_count(2)


def test_several_runs_in_one_chart(page, jobs):  # noqa: F811
    page.goto("/jobs")
    for job in jobs:
        page.locator(f"#pick-{job.id}").check()
    page.get_by_test_id("jobs-compare").click()
    expect(page.get_by_test_id("compare-loss").locator("canvas")).to_be_visible()
    expect(page.get_by_test_id("compare-loss").locator(".u-series")).to_have_count(3)
    expect(page.get_by_test_id("differs-epochs")).to_be_visible()
    expect(page.get_by_test_id("differs-stage")).not_to_be_visible()
    page.get_by_test_id("compare-all").check()
    expect(page.get_by_test_id("differs-stage")).to_be_visible()
    page.get_by_test_id("compare-x").select_option("minutes")
    expect(page.get_by_test_id("compare-loss").locator(".u-legend")).to_contain_text("Minutes")


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_of_jobs_is_wider_than_the_screen(page, jobs, width):  # noqa: F811
    page.set_viewport_size({"width": width, "height": 800})
    ids = ",".join(job.id for job in jobs)
    tabs = [f"/jobs/{jobs[0].id}?tab={tab}" for tab in ("charts", "log", "samples", "checkpoints", "settings", "events")]  # fmt: skip
    for path in (*tabs, "/jobs", f"/jobs/compare?ids={ids}"):
        page.goto(path)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
