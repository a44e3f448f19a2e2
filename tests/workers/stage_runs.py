"""For the tests of the stages: small models, data and runs."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from app.config import ROOT, settings
from app.datasets.rows import segments
from app.jobs.spec import RunSpec
from workers.starting import command

ENV = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@dataclass
class Ran:
    """A run directory after (or while) a stage worked in it."""

    directory: Path
    pid: int
    code: int | None = None

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.directory / name
        found = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in found]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [line for line in self.lines("metrics.jsonl") if "loss" in line]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return [line for line in self.lines("metrics.jsonl") if "eval_loss" in line]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics]

    @property
    def events(self) -> dict[str, dict[str, Any]]:
        """The last event of each kind."""
        return {line["kind"]: line for line in self.lines("events.jsonl")}

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.directory / "status.json").read_text())

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @cached_property
    def result(self) -> dict[str, Any]:
        return json.loads((self.directory / "result.json").read_text())

    def checkpoints(self) -> list[Path]:
        found = (self.directory / "checkpoints").glob("checkpoint-*/complete")
        return sorted((path.parent for path in found), key=lambda path: int(path.name[11:]))

    def until(self, what: Any, seconds: float = 60) -> None:
        """Wait until `what(self)` is true."""
        end = time.monotonic() + seconds
        while not what(self):
            assert time.monotonic() < end, self.log
            time.sleep(0.02)


class Stages:
    """Starts stages in a warm process. Directories are made below `home`."""

    def __init__(self, home: Path, server: subprocess.Popen[str]) -> None:
        self.home = home
        self.server = server
        self.made = 0

    def ask(self, question: Any) -> int:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def new(self, name: str) -> Path:
        self.made += 1
        directory = self.home / f"{name}-{self.made}"
        directory.mkdir()
        return directory

    def model(self, **options: Any) -> Path:
        directory = self.new("model")
        arguments = [str(directory), json.dumps(options)]
        code = self.ask(self.ask(["tests.workers.tiny", arguments, str(self.home / "tiny.log")]))
        assert code == 0, (self.home / "tiny.log").read_text()
        return directory

    def data(self, rows: list[dict[str, Any]]) -> str:
        directory = self.new("data")
        numbered = [{"id": f"row-{i}"} | row for i, row in enumerate(rows)]
        segments.write(numbered, directory)
        return str(directory)

    def write(self, spec: dict[str, Any], directory: Path | None = None) -> Path:
        directory = directory or self.new("run")
        filled = {"job_id": "job-1", "fence": 1, "stage": "sft", "method": "lora"} | spec
        # figures are compared: not in bfloat16, which `auto` takes on some processors
        filled["hyperparameters"] = {"precision": "fp32"} | filled.get("hyperparameters", {})
        (directory / "spec.json").write_text(json.dumps(filled, default=str))
        return directory

    def start(self, directory: Path, script: str = "train") -> Ran:
        log = str(directory / "log")
        return Ran(directory, self.ask([f"workers.stages.{script}", [str(directory)], log]))

    def wait(self, run: Ran) -> Ran:
        run.code = self.ask(run.pid)
        return run

    def run(self, **spec: Any) -> Ran:
        stage = str(spec.get("stage"))
        script = stage if stage in {"merge", "export", "evaluate"} else "train"
        return self.wait(self.start(self.write(spec), script))

    def several(self, spec: dict[str, Any]) -> Ran:
        """A run of several processes, started as a node starts it."""
        directory = self.write(spec)
        with (directory / "log").open("ab") as log:
            done = subprocess.run(
                command(
                    RunSpec.model_validate_json((directory / "spec.json").read_bytes()), directory
                ),
                cwd=ROOT,
                env=ENV,
                stdout=log,
                stderr=log,
            )
        return Ran(directory, 0, done.returncode)


@contextmanager
def serving(home: Path) -> Iterator[Stages]:
    server = subprocess.Popen(
        [settings.train_python, ROOT / "tests/workers/stage_server.py"],
        cwd=ROOT,
        env=ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    try:
        yield Stages(home, server)
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # with what a failed test left running
        server.wait()


def chat(user: str, assistant: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": messages} | more


def reviews(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """A task that two layers learn: is the review good or bad?"""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        good = chance.random() < 0.5
        word = chance.choice(["很好吃", "不错"] if good else ["难吃", "太差"])
        rows.append(chat("面条" + word + "，" * chance.randint(0, 12), "正面" if good else "负面"))
    return rows


def slow(steps: int = 400, **more: Any) -> dict[str, Any]:
    """Settings of a run that takes long enough to be interrupted, with much left to chance."""
    return {
        "max_steps": steps,
        "lora_dropout": 0.1,
        "batch_size": 4,
        "save_steps": 7,
        "keep_best": False,
    } | more
