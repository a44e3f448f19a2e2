"""The main job in a real browser: from a dataset to an answering endpoint.

One journey, told in order: each test goes on where the one before it stopped.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.stack import SAMPLES, Stack

pytestmark = pytest.mark.timeout(400)  # a job from start to end, and an engine's start
CHROMIUM = "/usr/bin/chromium"
QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    context = browser.new_context(base_url=stack.url, locale="en-US", viewport=SIZE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong: list[str] = []
    page.on("console", lambda entry: wrong.append(entry.text) if entry.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    context.close()
    assert wrong == []


SIZE = {"width": 1280, "height": 900}
HERE: dict[str, str] = {}  # what later steps need: addresses of what earlier ones made


def at(page: Page, testid: str):
    return page.get_by_test_id(testid).first


def test_sign_in(page: Page, stack: Stack) -> None:
    page.goto("/datasets")
    expect(page).to_have_url(f"{stack.url}/login?next=/datasets")
    at(page, "email").fill(stack.email)
    at(page, "password").fill(stack.password)
    at(page, "sign-in").click()
    expect(page).to_have_url(f"{stack.url}/datasets")


def test_upload_browse_and_publish(page: Page, tmp_path: Path) -> None:
    rows = (SAMPLES / "reviews-train.jsonl").read_text().splitlines()[:640]
    file = tmp_path / "reviews.jsonl"
    file.write_text("\n".join(rows) + "\n")
    page.goto("/datasets")
    at(page, "dataset-upload").click()
    at(page, "dataset-name").fill("Reviews")
    at(page, "dataset-file").set_input_files(file)
    at(page, "dataset-submit").click()
    page.wait_for_url("**/datasets/ds_*")
    HERE["dataset"] = page.url
    expect(page.get_by_test_id("dataset-row").first).to_be_visible()
    first = page.get_by_test_id("dataset-row").first.inner_text()
    at(page, "dataset-next").click()
    expect(page.get_by_test_id("dataset-row").first).not_to_have_text(first)
    at(page, "dataset-publish").click()
    if page.get_by_test_id("dataset-publish-confirm").count():
        at(page, "dataset-publish-confirm").click()
    expect(page.locator("[data-state=published]").first).to_be_visible()


def test_launch_a_tuning_job_and_watch_it(page: Page) -> None:
    page.goto("/jobs/new?model=danlu-starter&dataset=" + HERE["dataset"].rsplit("/", 1)[1])
    at(page, "job-name").fill("reviews-lora")
    page.locator("summary", has_text="Advanced").click()
    page.locator("[name=epochs]").fill("1")
    at(page, "job-submit").click()
    page.wait_for_url("**/jobs/job_*")
    HERE["job"] = page.url
    expect(at(page, "job-state").locator("[data-state=running]")).to_be_visible(timeout=60_000)
    expect(page.get_by_test_id("job-chart").locator("canvas").first).to_be_visible(timeout=60_000)
    expect(at(page, "job-log")).to_contain_text("loss", timeout=60_000)
    expect(at(page, "job-state").locator("[data-state=succeeded]")).to_be_visible(timeout=180_000)


def test_the_tuned_model_is_in_the_registry_with_its_lineage(page: Page) -> None:
    at(page, "job-result").click()
    page.wait_for_url("**/models/mdl_*")
    HERE["model"] = page.url
    lineage = at(page, "model-lineage")
    expect(lineage).to_contain_text("danlu-starter")
    expect(lineage).to_contain_text("reviews-lora")


def test_deploy_it(page: Page) -> None:
    at(page, "model-deploy").click()
    page.wait_for_url("**/deployments/new*")
    page.locator("[name=name]").fill("reviews")
    at(page, "deploy-submit").click()
    page.wait_for_url("**/deployments/dep_*")
    HERE["deployment"] = page.url
    expect(at(page, "deploy-state").locator("[data-state=ready]")).to_be_visible(timeout=180_000)


def test_chat_with_it(page: Page) -> None:
    at(page, "deploy-chat").click()
    page.wait_for_url("**/chat?model=reviews*")
    expect(at(page, "chat-model")).to_have_value("reviews")
    at(page, "chat-input").fill("判断情感：这款耳机音质很好，我非常满意。")
    at(page, "chat-input").press("Enter")
    answer = page.locator(".chat-message[data-role=assistant]")
    expect(answer.locator(".chat-facts")).to_contain_text("tokens", timeout=60_000)
    assert answer.locator(".chat-text").inner_text().strip()
    page.wait_for_url("**/chat/cnv_*")
    page.reload()
    expect(page.locator(".chat-message")).to_have_count(2)


def test_the_code_sample_works_as_pasted(page: Page, stack: Stack, tmp_path: Path) -> None:
    page.goto(HERE["deployment"])
    code = at(page, "deploy-code").locator("details").first
    code.get_by_role("button", name="Copy").click()
    sample = page.evaluate("navigator.clipboard.readText()")
    file = tmp_path / "sample.py"
    file.write_text(sample)
    ran = subprocess.run(
        [sys.executable, file],
        env={"DANLU_API_KEY": stack.api_key, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


def test_the_admin_sees_devices_and_sets_a_quota_that_makes_a_job_wait(
    page: Page, stack: Stack
) -> None:
    page.goto("/admin")  # the adapter may ride on its base's engine, which then holds the device
    expect(page.locator("main")).to_contain_text(re.compile("reviews|starter"))
    with stack.api() as api:
        quota = f"/api/v1/quotas/{stack.workspace}"
        assert api.put(quota, json={"devices": 1}).status_code == 200
        job = api.post(
            "/api/v1/jobs",
            json={
                "name": "waits",
                "model": "danlu-starter",
                "dataset": HERE["dataset"].rsplit("/", 1)[1],
                "stage": "sft",
                "method": "lora",
                "hyperparameters": {},
            },
        )
        assert job.status_code == 201, job.text
        job_id = job.json()["id"]
        page.goto(f"/jobs/{job_id}")
        expect(at(page, "job-reason")).to_contain_text("quota", timeout=20_000)
        page.goto("/admin")
        expect(page.locator("main")).to_contain_text("waits")
        assert api.put(quota, json={"devices": None}).status_code == 200
        api.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
    stack.wait(f"/jobs/{job_id}")


def test_stop_and_delete_the_deployment(page: Page) -> None:
    page.goto(HERE["deployment"])
    at(page, "deploy-stop").click()
    yes = page.get_by_role("button", name="Yes, do it")
    if yes.is_visible():
        yes.click()
    expect(at(page, "deploy-state").locator("[data-state=stopped]")).to_be_visible(timeout=60_000)
