"""Make the screenshots of the README: `make screenshots`.

Starts a Danlu of its own, tunes and deploys the starter model for real, and photographs the pages
in both languages into docs/screenshots/. Needs Chromium (CHROMIUM names another one).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.cli.stack import own_stack

OUT = Path(__file__).parent / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SIZE: Any = {"width": 1280, "height": 800}
QUESTION = "判断这条商品评价的情感，只回答“正面”或“负面”。\n评价：音质很好，物流也快，非常满意。"


def wait(api: httpx.Client, path: str, *states: str) -> dict[str, Any]:
    """Poll until the state is one of `states`. Raises RuntimeError for another final one."""
    while True:
        found: dict[str, Any] = api.get(path).raise_for_status().json()
        if found["state"] in states:
            return found
        if found["state"] in ("failed", "error", "cancelled"):
            raise RuntimeError(found)
        time.sleep(0.5)


def work(api: httpx.Client) -> dict[str, str]:
    """A tuned model, deployed; and jobs that wait. Addresses of what to photograph."""
    datasets = api.get("/api/v1/datasets").json()["data"]
    train = next(one["id"] for one in datasets if one["name"] == "reviews-train")
    job = {
        "name": "reviews",
        "model": "danlu-starter",
        "dataset": train,
        "stage": "sft",
        "method": "lora",
        "hyperparameters": {"epochs": 2, "learning_rate": 2e-3},
    }
    first = api.post("/api/v1/jobs", json=job).raise_for_status().json()["id"]
    wait(api, f"/api/v1/jobs/{first}", "running")
    time.sleep(40)
    return {"dataset": f"/datasets/{train}", "job": f"/jobs/{first}", "id": first}


def deploy(api: httpx.Client, job_id: str) -> str:
    model = wait(api, f"/api/v1/jobs/{job_id}", "succeeded")["result_model"]
    body = {"name": "reviews", "model": model, "replicas": 1, "devices": 1}
    made = api.post("/api/v1/deployments", json=body).raise_for_status().json()["id"]
    wait(api, f"/api/v1/deployments/{made}", "ready")
    return f"/deployments/{made}"


def shoot(page: Page, path: str, name: str) -> None:
    """The page at `path` in both languages."""
    for language in ("en", "zh"):
        root = str(httpx.URL(page.url).join("/"))
        page.context.add_cookies([{"name": "danlu_lang", "value": language, "url": root}])
        page.goto(path, wait_until="load")
        page.wait_for_timeout(1500)
        page.screenshot(path=OUT / f"{name}-{language}.png")


def main() -> None:
    """Photograph everything; a few minutes."""
    OUT.mkdir(exist_ok=True)
    homes: list[Path] = []

    def tell(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        homes.extend(Path(word) for word in text.split() if word.startswith("/"))

    with own_stack(tell) as (url, key), sync_playwright() as playwright:
        api = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120)
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_context(base_url=url, viewport=SIZE).new_page()
        first = json.loads((homes[0] / "first-run.json").read_text())
        page.goto("/login")
        page.get_by_test_id("email").fill(first["email"])
        page.get_by_test_id("password").fill(first["password"])
        page.get_by_test_id("sign-in").click()
        page.wait_for_url(url + "/")
        made = work(api)
        shoot(page, made["dataset"], "dataset")
        shoot(page, made["job"], "job")
        shoot(page, "/admin", "admin")
        deployment = deploy(api, made["id"])
        shoot(page, deployment, "deployment")
        page.goto("/chat?model=reviews")
        page.get_by_test_id("chat-input").fill(QUESTION)
        page.get_by_test_id("chat-send").click()
        page.locator(".chat-bar").wait_for(timeout=60_000)
        shoot(page, page.url.removeprefix(url), "chat")
        shoot(page, "/", "home")
        browser.close()


if __name__ == "__main__":
    main()
