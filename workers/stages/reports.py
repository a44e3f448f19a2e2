"""Reporting a run to Weights & Biases, SwanLab or MLflow as well, where its user asked for that.

What they do is done in a thread of its own, behind a queue: a service that is slow, away or broken
costs the run a line in its log, never a step. Each is given the settings once, the numbers of every
step, and how it ended. The account comes from the environment (workers/reporters.py).
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app.errors import N_
from app.jobs.spec import RunSpec
from workers.stages.run import Run, say

MOST = 10_000  # lines that wait; more are left out
LEAVE = 20.0  # seconds that the services get at the end
PROJECT = "danlu"
Line = dict[str, Any]
Log = Callable[[int, dict[str, float]], None]
Close = Callable[[bool], None]


class Reports:
    """`send` returns at once. `close` waits a little for what is under way."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        self.run, self.spec = run, spec
        self.waiting: queue.Queue[Line | bool] = queue.Queue(MOST)
        self.thread = threading.Thread(target=self.work, name="reports", daemon=True)
        self.thread.start()

    def send(self, line: Line) -> None:
        try:
            self.waiting.put_nowait(line)
        except queue.Full:
            return

    def close(self, succeeded: bool) -> None:
        try:
            self.waiting.put(succeeded, timeout=1)
        except queue.Full:
            return
        self.thread.join(LEAVE)

    def work(self) -> None:
        services = [(name, *opened) for name in self.spec.report_to if (opened := self.open(name))]
        while True:
            line = self.waiting.get()
            if isinstance(line, bool):
                for name, _, close in services:
                    self.guarded(name, close, line)
                return
            numbers = {
                key: float(value)
                for key, value in line.items()
                if key not in ("step", "t") and isinstance(value, int | float)
            }
            services = [
                one for one in services if self.guarded(one[0], one[1], line["step"], numbers)
            ]

    def open(self, name: str) -> tuple[Log, Close] | None:
        try:
            return {"wandb": wandb, "swanlab": swanlab, "mlflow": mlflow}[name](self.spec)
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
        self.run.event(
            "warning",
            N_("This run is not reported to %(name)s any more: %(reason)s"),
            name=name,
            reason=f"{type(error).__name__}: {error}"[:500],
        )


@contextmanager
def reported(run: Run, spec: RunSpec) -> Iterator[None]:
    """What the run measures meanwhile is reported where its user asked for that."""
    if not spec.report_to:
        yield
        return
    reports = Reports(run, spec)
    run.reports.append(reports.send)
    succeeded = False
    try:
        yield
        succeeded = run.stop_asked is None
    finally:
        run.reports.remove(reports.send)
        reports.close(succeeded)


def settings_of(spec: RunSpec) -> dict[str, Any]:
    return {"stage": spec.stage, "method": spec.method} | spec.hyperparameters.model_dump()


# -- the services --------------------------------------------------------------------------


def wandb(spec: RunSpec) -> tuple[Log, Close]:
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
        settings=wandb.Settings(console="off", init_timeout=30, silent=True),
    )
    say("Reports to Weights & Biases")
    return (
        lambda step, numbers: run.log(numbers, step=step),
        lambda succeeded: run.finish(exit_code=0 if succeeded else 1),
    )


def swanlab(spec: RunSpec) -> tuple[Log, Close]:
    import swanlab

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


def mlflow(spec: RunSpec) -> tuple[Log, Close]:
    import time

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

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
