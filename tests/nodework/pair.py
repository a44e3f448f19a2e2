"""A platform on servers of its own, a bucket, and a second machine: a home that has joined by a token."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from app.config import ROOT
from tests import stack
from tests.buckets import ACCOUNT
from tests.nodework.servers import Servers, networked
from tests.stack import SAMPLES, Stack, environment, free_port

NAME = "second"


@dataclass
class Second:
    """The machine that joins: a home, and what runs for it."""

    home: Path
    started: subprocess.Popen[bytes] | None = None
    outputs: list[Path] = field(default_factory=list)

    def danlu(self, *arguments: str, token: str = "") -> "subprocess.CompletedProcess[str]":
        """A command on that machine, to its end. It knows its home and nothing of the platform's."""
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", *arguments],
            cwd=ROOT,
            env=self.env() | ({"DANLU_JOIN_TOKEN": token} if token else {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def env(self) -> dict[str, str]:
        found = environment(self.home, free_port(), DANLU_LANG="en", NO_PROXY="127.0.0.1")
        return {name: value for name, value in found.items() if not name.startswith("AWS_")}

    def up(self) -> None:
        self.outputs.append(self.home.parent / f"second-{len(self.outputs)}.log")
        with self.outputs[-1].open("wb") as out:
            self.started = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", "node", "up"],
                cwd=ROOT,
                env=self.env(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """As the machine's own killer would: no goodbye. Its runs go on."""
        assert self.started
        self.started.kill()
        self.started.wait()

    def stop(self) -> None:
        if self.started and self.started.poll() is None:
            self.started.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.started.wait(60)
            self.started.kill()

    def processes(self) -> list[psutil.Process]:
        """All that runs for this home, trainers and engines too."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("DANLU_HOME") == str(self.home):
                    found.append(process)
        return found

    def runs(self) -> dict[str, int]:
        """The leader of every run of this home, by attempt."""
        found: dict[str, int] = {}
        for process in self.processes():
            with suppress(psutil.Error, OSError):
                run = process.environ().get("DANLU_RUN")
                if run and os.getsid(process.pid) == process.pid:
                    found[run] = process.pid
        return found

    def told(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in self.outputs
        )


@dataclass
class Pair:
    """Both machines, seen from the platform's API."""

    first: Stack
    second: Second
    servers: Servers
    bucket: Any

    def told(self) -> str:
        return f"{self.first.tail()}\n{self.second.told()}"

    def get(self, path: str) -> Any:
        with self.first.api() as api:
            return api.get(f"/api/v1{path}").raise_for_status().json()

    def post(self, path: str, **asked: Any) -> Any:
        with self.first.api() as api:
            made = api.post(path, **asked)
            assert made.is_success, f"{made.text}\n{self.told()}"
            return made.json() if made.content else None

    def until(self, true: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.told()
            time.sleep(0.2)

    def state(self, path: str, *states: str, seconds: float = 120) -> Any:
        found: list[Any] = [{}]

        def there() -> bool:
            found[0] = self.get(path)
            return found[0]["state"] in states

        self.until(there, seconds)
        return found[0]

    def node(self, name: str) -> dict[str, Any]:
        listed = self.get("/nodes")["data"]
        return next((dict(one) for one in listed if one["id"] == name), {})

    def resumed(self, job: str) -> list[int]:
        """After which steps its attempts went on."""
        query = "SELECT params->>'step' FROM job_events WHERE job_id = %s AND kind = 'resumed'"
        with psycopg.connect(self.servers.postgres) as line:
            return [int(step) for (step,) in line.execute(query + " ORDER BY id", [job])]

    def stored(self, kind: str) -> set[str]:
        """The artefacts of a kind that the bucket holds."""
        keys = [one.key.split("/") for one in self.bucket.objects.all()]
        return {f"{kind}/{key[-2]}" for key in keys if kind in key and key[-1] == ".manifest.json"}

    def dataset(self, name: str, rows: int) -> str:
        lines = (SAMPLES / "reviews-train.jsonl").read_bytes().splitlines(keepends=True)[:rows]
        file = ("reviews.jsonl", b"".join(lines))
        made = self.post("/api/v1/datasets", data={"name": name}, files={"file": file})
        self.post(f"/api/v1/datasets/{made['id']}/publish")
        return str(made["id"])

    def train(self, dataset: str, name: str, steps: int, **hyperparameters: Any) -> str:
        body = {
            "name": name,
            "model": "danlu-starter",
            "dataset": dataset,
            "hyperparameters": {"max_steps": steps, "batch_size": 2, "save_steps": 10}
            | hyperparameters,
        }
        return str(self.post("/api/v1/jobs", json=body)["id"])

    def finished(self, job: str, seconds: float = 400) -> Any:
        found = self.state(f"/jobs/{job}", "succeeded", "failed", "cancelled", seconds=seconds)
        assert found["state"] == "succeeded", f"{found}\n{self.told()}"
        return found


@contextmanager
def two_nodes(s3: str) -> Iterator[Pair]:
    """The platform is up; the second machine has a home and has joined nothing yet."""
    import boto3

    base = Path(tempfile.mkdtemp(prefix="danlu-pair-", dir="/tmp"))
    base.chmod(0o711)
    account = boto3.resource(
        "s3",
        endpoint_url=s3,
        region_name=ACCOUNT["AWS_REGION"],
        aws_access_key_id=ACCOUNT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ACCOUNT["AWS_SECRET_ACCESS_KEY"],
    )
    bucket = account.create_bucket(Bucket="two-nodes")
    for name in ("servers", "first", "second"):
        (base / name).mkdir(mode=0o711)
    second = Second(base / "second")
    try:
        with networked(base / "servers") as servers:
            first = stack.start(
                base / "first",
                free_port(),
                DATABASE_URL=servers.database_url,
                REDIS_URL=servers.redis_url,
                DANLU_STORE="s3://two-nodes/danlu",
                AWS_ENDPOINT_URL=s3,
                **ACCOUNT,
            )
            try:
                yield Pair(first, second, servers, bucket)
            finally:
                second.stop()
                for left in second.processes():
                    with suppress(psutil.Error):
                        left.kill()
                stack.stop(first)
    finally:
        bucket.objects.all().delete()
        bucket.delete()
        shutil.rmtree(base, ignore_errors=True)


def joined(second: Second) -> dict[str, str]:
    """What the platform has given it."""
    found: dict[str, str] = json.loads((second.home / "node.json").read_text())
    return found


__all__ = ["NAME", "Pair", "Second", "joined", "two_nodes"]
