"""Adapters for the serving bench: each learns to say a word of its own, in a real tuning run."""

import json
import time
from pathlib import Path
from typing import Any

import httpx

QUESTIONS = ("你是谁？", "你叫什么名字？", "请介绍一下你自己。", "Who are you?")
ASKED = QUESTIONS[0]
WORDS = (
    "红茶", "绿茶", "牛奶", "苹果", "西瓜", "太阳", "月亮", "星星",
    "大海", "高山", "河流", "森林", "小猫", "小狗", "飞机", "火车",
)  # fmt: skip
HYPERPARAMETERS = {
    "max_steps": 24,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "lora_rank": 8,
    "lr_scheduler": "constant",
}


def wait_for(
    api: httpx.Client, path: str, states: set[str], seconds: float, *, every: float = 0.2
) -> dict[str, Any]:
    """What stands at `path` once its state is one of `states`. Raises RuntimeError."""
    end = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = api.get(path).raise_for_status().json()
        state = found.get("state") or found.get("status")
        if state in states:
            return found
        if time.monotonic() > end or state in ("error", "failed"):
            raise RuntimeError(f"{path} did not become {states}: {found}")
        time.sleep(every)


def dataset(api: httpx.Client, word: str) -> str:
    """Rows in which the assistant says that it is `word`; published."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": word},
            ]
        }
        for question in QUESTIONS * 8
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    made = api.post(
        "/api/v1/datasets", data={"name": word}, files={"file": ("rows.jsonl", lines.encode())}
    )
    made.raise_for_status()
    found: str = made.json()["id"]
    wait_for(api, f"/api/v1/datasets/{found}", {"draft"}, 120)
    api.post(f"/api/v1/datasets/{found}/publish").raise_for_status()
    wait_for(api, f"/api/v1/datasets/{found}", {"published"}, 120)
    return found


def tune(api: httpx.Client, name: str, data: str) -> str:
    """Start the run whose result is served as `name` as soon as it is there; the job's id."""
    body: dict[str, Any] = {
        "name": name,
        "model": "danlu-starter",
        "dataset": data,
        "stage": "sft",
        "method": "lora",
        "hyperparameters": HYPERPARAMETERS,
        "deploy": name,
    }
    made = api.post("/api/v1/jobs", json=body)
    made.raise_for_status()
    found: str = made.json()["id"]
    return found


def ended(home: Path, job: str) -> float | None:
    """When the run wrote that it has succeeded, by the clock of the file system; None before.

    Raises RuntimeError if it failed.
    """
    for path in home.glob(f"runs/{job}-*/status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "succeeded":
            return path.stat().st_mtime
        if status["state"] == "failed":
            raise RuntimeError(f"a tuning run failed: {status}")
    return None
