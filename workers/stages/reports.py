"""Reporting a run to Weights & Biases, SwanLab or MLflow as well, where its user asked for that:
`python -m workers.stages.reports RUN_DIRECTORY`, in the training environment, beside the run.

The trainer knows nothing of it and has no account: this process reads what the trainer writes, and
the node (workers/reporting.py) hands it the accounts as one line of JSON on its standard input, so
that they stand in no argument, no environment and no file. A service that is slow, away or broken
costs the run a line among its events, never a step. `reports.json` says how far it is: whoever comes
after it goes on from there.
"""

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs.spec import RunSpec
from workers.launch import started
from workers.stages.run import append, say

LEAVE = 60.0  # seconds that the services get once the run is over
PAUSE = 1.0  # between two looks at the metrics
GONE = 10.0  # seconds without a trainer and without a last word, after which it is over
FINAL = ("succeeded", "failed", "stopped")
PROJECT = "danlu"
Line = dict[str, Any]
Account = dict[str, str]  # variables as the service's own library names them
Log = Callable[[int, dict[str, float]], None]
Close = Callable[[bool], None]


class Reports:
    """What is known of one run's reporting."""

    def __init__(self, directory: Path, accounts: dict[str, Account]) -> None:
        self.directory = directory
        self.spec = RunSpec.model_validate_json((directory / "spec.json").read_bytes())
        self.accounts = accounts
        self.place = directory / "reports.json"
        self.kept: dict[str, Any] = {"offset": 0, "gone": [], "done": False}
        with contextlib.suppress(OSError, ValueError):
            self.kept |= json.loads(self.place.read_bytes())

    def work(self) -> None:
        wanted = [name for name in self.spec.report_to if name not in self.kept["gone"]]
        services = [(name, *opened) for name in wanted if (opened := self.open(name))]
        while services:
            over = self.over()  # before the last look: what is written until then is read
            for line in self.fresh():
                numbers = numbers_of(line)
                services = [
                    one for one in services if self.guarded(one[0], one[1], line["step"], numbers)
                ]
            self.save()
            if over:
                break
            time.sleep(PAUSE)
        timer = threading.Timer(LEAVE, os._exit, [1])
        timer.daemon = True
        timer.start()
        for name, _, close in services:
            self.guarded(name, close, self.state() == "succeeded")
        self.save(done=True)

    def fresh(self) -> Iterator[Line]:
        """Whole lines that nobody has reported yet."""
        path = self.directory / "metrics.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as file:
            if path.stat().st_size < self.kept["offset"]:
                self.kept["offset"] = 0  # steps that are taken again
            file.seek(self.kept["offset"])
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                self.kept["offset"] += len(raw)
                with contextlib.suppress(ValueError):
                    line = json.loads(raw)
                    if isinstance(line, dict) and isinstance(line.get("step"), int):
                        yield line

    def state(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads((self.directory / "status.json").read_bytes()).get("state"))
        return ""

    def over(self) -> bool:
        """Whether the run has said its last word, or can say none any more."""
        if self.state() in FINAL:
            return True
        if self.running():
            self.silent_since = 0.0
            return False
        self.silent_since = self.silent_since or time.monotonic()
        return time.monotonic() - self.silent_since > GONE

    silent_since = 0.0

    def running(self) -> bool:
        try:
            pid, began = json.loads((self.directory / "pid").read_bytes())
            return bool(started(pid) == began)
        except (OSError, ValueError):
            return False

    def save(self, **more: Any) -> None:
        self.kept |= more
        partial = self.place.with_suffix(".partial")
        partial.write_text(json.dumps(self.kept))
        partial.rename(self.place)

    def open(self, name: str) -> tuple[Log, Close] | None:
        opens = {"wandb": wandb, "swanlab": swanlab, "mlflow": mlflow}
        try:
            return opens[name](self.spec, self.accounts.get(name, {}))
        except Exception as error:  # noqa: BLE001 - whatever their libraries raise
            self.give_up(name, error)
            return None

    def guarded(self, name: str, act: Callable[..., None], *arguments: Any) -> bool:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001 - as above
            self.give_up(name, error)
            return False
        return True

    def give_up(self, name: str, error: Exception) -> None:
        """As an event of the run. What a library says may hold the account: that is struck out."""
        reason = f"{type(error).__name__}: {error}"[:500]
        for secret in self.accounts.get(name, {}).values():
            reason = reason.replace(secret, "•••") if len(secret) > 5 else reason
        message = N_("This run is not reported to %(name)s any more: %(reason)s")
        params = {"name": name, "reason": reason}
        say(message % params)
        line = {"t": time.time(), "kind": "warning", "message": message, "params": params}
        append(self.directory / "events.jsonl", line)
        self.save(gone=[*self.kept["gone"], name])


def numbers_of(line: Line) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in line.items()
        if key not in ("step", "t") and isinstance(value, int | float)
    }


def settings_of(spec: RunSpec) -> dict[str, Any]:
    return {"stage": spec.stage, "method": spec.method} | spec.hyperparameters.model_dump()


# -- the services --------------------------------------------------------------------------


def wandb(spec: RunSpec, account: Account) -> tuple[Log, Close]:
    import wandb

    asked = spec.report_as.get("wandb", {})
    run = wandb.init(
        project=asked.get("project") or os.environ.get("WANDB_PROJECT", PROJECT),
        entity=asked.get("entity"),
        tags=asked.get("tags"),
        id=spec.job_id,
        name=asked.get("name") or spec.job_id,
        resume="allow",
        config=settings_of(spec),
        settings=wandb.Settings(
            console="off", init_timeout=30, silent=True, api_key=account.get("WANDB_API_KEY")
        ),
    )
    say("Reports to Weights & Biases")
    return (
        lambda step, numbers: run.log(numbers, step=step),
        lambda succeeded: run.finish(exit_code=0 if succeeded else 1),
    )


def swanlab(spec: RunSpec, account: Account) -> tuple[Log, Close]:
    import swanlab

    if key := account.get("SWANLAB_API_KEY"):
        swanlab.login(api_key=key)
    swanlab.init(
        project=os.environ.get("SWANLAB_PROJ_NAME", PROJECT),
        experiment_name=spec.job_id,
        config=settings_of(spec),
        mode=os.environ.get("SWANLAB_MODE") or None,
    )
    say("Reports to SwanLab")
    return (
        lambda step, numbers: swanlab.log(numbers, step=step),
        lambda succeeded: swanlab.finish(
            state="success" if succeeded else "crashed", error=None if succeeded else "stopped"
        ),
    )


def mlflow(spec: RunSpec, account: Account) -> tuple[Log, Close]:
    import time

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    os.environ |= (
        account  # it reads them nowhere else, and starts no process that would inherit them
    )
    client = MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    found = client.search_runs([experiment], f"tags.danlu_job = '{spec.job_id}'", max_results=1)
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        made = client.create_run(experiment, run_name=spec.job_id, tags={"danlu_job": spec.job_id})
        run_id = made.info.run_id
        params = [Param(key, str(value)[:500]) for key, value in settings_of(spec).items()]
        client.log_batch(run_id, params=params)
    say("Reports to MLflow")

    def log(step: int, numbers: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(
            run_id, metrics=[Metric(key, value, now, step) for key, value in numbers.items()]
        )

    return log, lambda succeeded: client.set_terminated(
        run_id, "FINISHED" if succeeded else "KILLED"
    )


def main() -> None:
    directory = Path(sys.argv[1]).resolve()
    os.chdir(directory)  # where the services' libraries leave what they write
    with (directory / "reports.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # an earlier node's, which goes on
        Reports(directory, json.loads(sys.stdin.readline() or "{}")).work()


if __name__ == "__main__":
    main()
