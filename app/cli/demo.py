"""`danlu demo`: the whole journey over HTTP, measured.

Uploads the sample reviews, tunes the starter model on them, deploys it beside its base, and asks
both about reviews they have not seen. Uses the stack that DANLU_URL and DANLU_API_KEY name, or
starts one of its own in a temporary home. The last line is one JSON object.
"""

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.cli.stack import Failed, own_stack

SAMPLES = Path(__file__).resolve().parent.parent / "datasets" / "samples"
BASE = "danlu-starter"
# What a LoRA run of about two minutes on two cores needs to learn the reviews.
HYPERPARAMETERS = {"learning_rate": 2e-3, "batch_size": 16, "epochs": 3}
ASKED = 300  # held-out rows, at most
AT_ONCE = 16
LONGEST = 480.0  # seconds for everything
Row = dict[str, Any]


class Demo:
    """One journey. `facts` fills up with what the last line says."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}", "Accept-Language": "en"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60)
        self.name = f"demo-{secrets.token_hex(3)}"
        self.deployments: list[str] = []
        self.facts: dict[str, Any] = {}
        self.began = time.monotonic()

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """The JSON that comes back. Raises Failed with the sentence of a refusal."""
        answer = self.http.request(method, path, **kwargs)
        if answer.is_error:
            raise Failed(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.facts[name] = round(time.monotonic() - began, 2)

    def until(self, path: str, good: str, note: Callable[[Row], str]) -> Row:
        """Ask for `path` until its state is `good`, telling what changes meanwhile."""
        said = ""
        while True:
            found: Row = self.call("GET", path)
            state = found.get("state") or found["status"]
            text = note(found)
            if text != said:
                tell(f"  {text}")
                said = text
            if state == good:
                return found
            if state in {"failed", "error", "cancelled", "stopped"}:
                raise Failed(f"{path} is {state}: {json.dumps(found.get('error'))}")
            if time.monotonic() - self.began > LONGEST:
                raise Failed(f"{path} is still {state} after {LONGEST:.0f} s")
            time.sleep(0.5)

    # -- the steps -----------------------------------------------------------------------

    def upload(self, name: str, file: Path) -> str:
        """A published dataset; its id."""
        tell(f"Uploading {file.name}")
        with file.open("rb") as stream:
            made = self.call(
                "POST", "/api/v1/datasets", data={"name": name}, files={"file": stream}
            )
        path = f"/api/v1/datasets/{made['id']}"
        found = self.until(path, "draft", lambda row: f"{row['status']}, {row['rows']} rows")
        if found["errors"]:
            raise Failed(f"{file.name} has errors: {found['errors'][:3]}")
        self.call("POST", f"{path}/publish")
        self.until(path, "published", lambda row: str(row["status"]))
        return str(made["id"])

    def train(self, dataset: str) -> str:
        """The id of the tuned model."""
        tell(f"Tuning {BASE} with LoRA")
        body = {
            "name": self.name,
            "model": BASE,
            "dataset": dataset,
            "stage": "sft",
            "method": "lora",
            "hyperparameters": HYPERPARAMETERS,
        }
        job = self.call("POST", "/api/v1/jobs", json=body)
        done = self.until(f"/api/v1/jobs/{job['id']}", "succeeded", self.progress)
        return str(done["result_model"])

    def progress(self, job: Row) -> str:
        """A job in a few words, new every tenth of the way."""
        text = " ".join(filter(None, (job["state"], job["reason"], job["phase"])))
        if not job["total"]:
            return text
        tenth = job["step"] * 10 // job["total"]
        losses = [row["loss"] for row in self.metrics(job["id"], tenth) if "loss" in row]
        loss = f", loss {losses[-1]:.3f}" if losses else ""
        return f"{text}: {tenth * 10} % of {job['total']} steps{loss}"

    def metrics(self, job_id: str, tenth: int) -> list[Row]:
        """Fetched once per tenth."""
        if self.facts.get("tenth") != tenth:
            self.facts["tenth"] = tenth
            self.facts["metrics"] = self.call("GET", f"/api/v1/jobs/{job_id}/metrics")["data"]
        return list(self.facts["metrics"])

    def deploy(self, models: dict[str, str]) -> None:
        """Start an engine for each name → model, side by side, and wait until both answer."""
        for name, model in models.items():
            tell(f"Deploying {name}")
            body = {"name": name, "model": model, "replicas": 1, "devices": 1}
            self.deployments.append(self.call("POST", "/api/v1/deployments", json=body)["id"])
        for deployment in self.deployments:
            self.until(f"/api/v1/deployments/{deployment}", "ready", self.phases)

    @staticmethod
    def phases(deployment: Row) -> str:
        """A deployment in a few words."""
        phases = [replica["phase"] for replica in deployment["replicas"]]
        words = [deployment["name"], deployment["state"], deployment["reason"], *phases]
        return " ".join(filter(None, words))

    def first_token(self, model: str, row: Row) -> float:
        """Seconds from the question to the first piece of the answer."""
        began = time.monotonic()
        body = self.question(model, row) | {"stream": True}
        with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.is_error:
                raise Failed(f"{model}: {answer.status_code} {answer.read().decode()[:500]}")
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line.removeprefix("data: "))["choices"]
                if choices and choices[0]["delta"].get("content"):
                    return round(time.monotonic() - began, 3)
        raise Failed(f"{model} answered nothing")

    def accuracy(self, model: str, rows: list[Row]) -> float:
        """The share of `rows` whose last message `model` gives word for word."""
        tell(f"Asking {model} about {len(rows)} reviews it has not seen")

        def right(row: Row) -> bool:
            body = self.question(model, row)
            answer = self.call("POST", "/v1/chat/completions", json=body)
            text = answer["choices"][0]["message"]["content"] or ""
            return bool(text.strip() == row["messages"][-1]["content"].strip())

        with ThreadPoolExecutor(AT_ONCE) as pool:
            share = sum(pool.map(right, rows)) / len(rows)
        tell(f"  {share:.1%} right")
        return round(share, 4)

    @staticmethod
    def question(model: str, row: Row) -> Row:
        return {
            "model": model,
            "messages": row["messages"][:-1],
            "temperature": 0,
            "max_tokens": 16,
        }

    def run(self) -> None:
        lines = (SAMPLES / "reviews-heldout.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines][:ASKED]
        with self.timed("upload_s"):
            dataset = self.upload(self.name, SAMPLES / "reviews-train.jsonl")
            self.upload(f"{self.name}-heldout", SAMPLES / "reviews-heldout.jsonl")
        with self.timed("train_s"):
            model = self.train(dataset)
        base = f"{self.name}-base"
        with self.timed("deploy_s"):
            self.deploy({self.name: model, base: BASE})
        self.facts["first_token_s"] = self.first_token(self.name, rows[0])
        self.facts["base_accuracy"] = self.accuracy(base, rows)
        self.facts["tuned_accuracy"] = self.accuracy(self.name, rows)

    def clean(self) -> None:
        """Its deployments would hold devices for ever; data and model stay to be looked at."""
        for deployment in self.deployments:
            try:
                self.call("DELETE", f"/api/v1/deployments/{deployment}")
            except (Failed, httpx.HTTPError) as error:
                tell(f"  {deployment} was not deleted: {error}")


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def journey(url: str, key: str) -> dict[str, Any]:
    """Run it; what the last line says."""
    names = "upload_s train_s deploy_s first_token_s base_accuracy tuned_accuracy".split()
    demo = Demo(url, key)
    try:
        demo.run()
    except (Failed, httpx.HTTPError, KeyError, ValueError) as error:
        tell(f"It did not work: {type(error).__name__}: {error}")
    finally:
        demo.clean()
    facts = {name: demo.facts.get(name) for name in names}
    base, tuned = facts["base_accuracy"], facts["tuned_accuracy"]
    learnt = base is not None and tuned is not None and tuned >= 0.9 and base <= tuned - 0.2
    return facts | {"ok": learnt}


def main() -> int:
    """Exit status 0 only if all of it worked and the tuned model is right nine times in ten."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it made is cleaned up
    url, key = os.environ.get("DANLU_URL", ""), os.environ.get("DANLU_API_KEY", "")
    if bool(url) != bool(key):
        tell("DANLU_URL and DANLU_API_KEY belong together: set both, or neither.")
        return 2
    try:
        if url:
            facts = journey(url.rstrip("/"), key)
        else:
            with own_stack(tell) as (url, key):
                facts = journey(url, key)
    except Failed as error:
        tell(str(error))
        facts = {"ok": False}
    tell(json.dumps(facts))
    return 0 if facts["ok"] else 1
