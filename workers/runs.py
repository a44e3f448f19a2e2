"""Jobs on this node: what looks after their runs, and says what came of them.

All of it is called by the node's loop, which may die at any moment: what to do next is read from
the row, the run directory and the process table. `workers.starting` is what starts a run.
"""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from app import storage
from app.config import settings
from app.deployments import results
from app.errors import N_, DomainError
from app.jobs import benchmarks, exports
from app.jobs import checkpoints as wanted
from app.jobs import runs as jobs
from app.jobs.states import DRAINED
from app.jobs.tables import Job
from app.models import weights
from app.nodework.asking import do
from app.queue import transaction
from workers import adapters, checkpoints, process, reporters, storing
from workers.outbox import Outbox, read_status
from workers.starting import STORE_PATIENCE, alone, directory_of

log = structlog.get_logger()

CANCEL_GRACE = 2.0  # seconds: nothing of it is wanted any more
SAVE_GRACE = 30.0  # a trainer leaves a checkpoint meanwhile
STORE_PAUSE = 10.0  # seconds between two tries
LAGS = 5.0  # seconds without having shipped everything, after which it counts as late
TROUBLE_PAUSE = 10.0  # seconds between two looks at a run that raises
FINISH = "finish"  # a file in the run directory: stop at the next step, and keep the result


# -- looking after -----------------------------------------------------------------------


@dataclass
class Run:
    """What this process remembers of an attempt; all of it can be found again."""

    outbox: Outbox
    stopping: Future[bool] | None = None
    ending: Future[None] | None = None
    next_look: float = 0.0
    next_ship: float = 0.0
    next_store: float = 0.0
    gave_up_at: float = field(default_factory=lambda: float("inf"))
    shipped_at: float = field(default_factory=time.monotonic)  # nothing was left to ship then


known: dict[tuple[str, int], Run] = {}
pool = ThreadPoolExecutor(16, thread_name_prefix="runs")  # stopping and storing take a while


def tick(node_id: str) -> None:
    """One look at every job of this node. Short; raises while the database is away."""
    with transaction() as db:
        active = jobs.active_on(db, node_id)
    for key in known.keys() - {(job.id, job.fence) for job in active}:
        del known[key]
    reporters.forget({run.outbox.directory for run in known.values()})
    for job in active:
        run = known.setdefault(
            (job.id, job.fence),
            Run(Outbox(job.id, job.fence, directory_of(job.id, job.fence))),
        )
        if time.monotonic() < run.next_look:
            continue
        try:
            look_after(job, run)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            log.exception("cannot look after a run", job=job.id, fence=job.fence)
            run.next_look = time.monotonic() + TROUBLE_PAUSE


def shipping_lag() -> float:
    """For how many seconds the slowest run has had something to ship; one look is no lag."""
    waited = [time.monotonic() - run.shipped_at for run in list(known.values())]
    longest = max(waited, default=0.0)
    return round(longest, 1) if longest > LAGS else 0.0


def look_after(job: Job, run: Run) -> None:
    directory = run.outbox.directory
    if run.ending or job.pid is None:
        run.shipped_at = time.monotonic()
    if run.ending:
        if not run.ending.done():
            return
        failure, run.ending = run.ending.exception(), None
        if failure:
            raise failure
    if job.pid is None or job.pid_started is None:
        adopt(job, directory)
        return
    if time.monotonic() >= run.next_ship:
        run.next_ship = time.monotonic() + 1
        for _ in range(4):  # at most 1 MiB of log a second: a flood must not hold up the others
            if not run.outbox.ship():
                run.shipped_at = time.monotonic()
                break
    if job.finishing:
        (directory / FINISH).touch()
    if job.report_to:
        reporters.look(job, directory)
    if not process.alive(job.pid, job.pid_started):
        if time.monotonic() >= run.next_store:
            run.ending = pool.submit(end, job, run, directory)
    elif job.state in ("pausing", "cancelling") and not (run.stopping and not run.stopping.done()):
        run.stopping = pool.submit(stop, job)


def stop(job: Job) -> bool:
    assert job.pid is not None
    assert job.pid_started is not None
    grace = CANCEL_GRACE if job.state == "cancelling" else SAVE_GRACE
    return process.stop(job.pid, job.pid_started, grace, process.marker(job.id, job.fence))


def adopt(job: Job, directory: Path) -> None:
    """A job without a pid: record a process whose starter died, or give up one not wanted."""
    if found := process.read_pidfile(directory / "pid"):
        do(jobs.mark_started, job.id, job.fence, *found)
    elif job.state != "scheduled":
        abandon(job, directory)


def abandon(job: Job, directory: Path) -> bool:
    """End an attempt that never started; False if somebody is starting it just now."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(directory) as only:
        if not only or process.read_pidfile(directory / "pid"):
            return False
        do(results.finish, settings.node, job.id, job.fence, outcome="stopped")
    return True


# -- the end -----------------------------------------------------------------------------


def end(job: Job, run: Run, directory: Path, *, asked: bool = False) -> None:
    """The leader is gone: see that all is, ship the rest, store the result, say what came of it.

    `asked`: we stopped it, so it need not explain itself.
    """
    if not stop(job):
        log.error("processes that cannot be killed", job=job.id, pid=job.pid)
        return
    while run.outbox.ship(final=True):
        pass
    if run.outbox.refused:
        return
    status = read_status(directory) or {}
    outcome: jobs.Outcome = "stopped" if asked else "died"
    error = status["error"] if isinstance(status.get("error"), dict) else None
    result = None
    if status.get("state") in ("failed", "stopped"):
        outcome = status["state"]
    elif status.get("state") == "succeeded":
        outcome = "succeeded"
        if job.state != "cancelling":
            try:
                result = store(job, directory)
            except DomainError as refusal:
                outcome, error = "failed", refusal.kept()
            except Exception as trouble:  # noqa: BLE001 - whatever the store's client raises
                if not patience_is_over(run):
                    log.warning("cannot store a result yet", job=job.id, error=str(trouble))
                    return
                outcome, error = "failed", cannot_store(trouble).kept()
    if job.state == "pausing" and job.reason == DRAINED and outcome in ("stopped", "died"):
        do(wanted.keep, settings.node, job.id, checkpoints.of_job(job.id))
        storing.leave(settings.node, job.id)  # who empties the node waits for it
    ended = do(
        results.finish, settings.node, job.id, job.fence,
        standing=checkpoints.of_job(job.id), outcome=outcome, error=error, result=result,
    )  # fmt: skip
    if ended.deployed:
        adapters.soon()
    if result and ended.state != "succeeded":
        storage.delete(result["artefact"])
    log.info("run ended", job=job.id, fence=job.fence, outcome=outcome, **ended._asdict())


def store(job: Job, directory: Path) -> dict[str, Any]:
    """Put the result into the store; the id follows from the attempt, so twice is once."""
    made = next(
        (
            directory / name
            for name in ("adapter", "model", "export", "benchmark")
            if (directory / name).is_dir()
        ),
        None,
    )
    if made is None:
        raise DomainError(N_("The run says that it succeeded, but left no model."))
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    if job.stage == "export":
        return {**result, "artefact": storage.put(made, exports.artefact(job))}
    if job.stage == "evaluate":
        return {**result, "artefact": storage.put(made, benchmarks.artefact(job))}
    facts = weights.inspect(made)
    artefact = storage.put(made, f"models/{process.marker(job.id, job.fence)}")
    board = directory / "tensorboard"
    kept = (
        storage.put(board, f"tensorboard/{process.marker(job.id, job.fence)}")
        if board.is_dir()
        else None
    )
    return {**result, "artefact": artefact, "facts": facts, "tensorboard": kept}


def patience_is_over(run: Run) -> bool:
    run.next_store = time.monotonic() + STORE_PAUSE
    run.gave_up_at = min(run.gave_up_at, time.monotonic() + STORE_PATIENCE)
    return time.monotonic() >= run.gave_up_at


def cannot_store(trouble: Exception) -> DomainError:
    return DomainError(
        N_("The model is trained, but could not be put into the store: %(why)s"),
        code="store",
        why=str(trouble)[:500],
    )


# -- taking the node down ----------------------------------------------------------------


def drain(node_id: str) -> None:
    """Stop all runs with a checkpoint; their jobs wait again and go on when a node is back."""
    with transaction() as db:
        active = jobs.active_on(db, node_id)
    for done in [pool.submit(drain_one, job) for job in active]:
        if trouble := done.exception():
            log.warning("a run is not drained", error=str(trouble))


def drain_one(job: Job) -> None:
    directory = directory_of(job.id, job.fence)
    deadline = time.monotonic() + 20
    while job.pid is None:
        if found := process.read_pidfile(directory / "pid"):
            job.pid, job.pid_started = found
        elif abandon(job, directory) or time.monotonic() > deadline:
            return
        else:
            time.sleep(0.1)
    stop(job)
    end(job, Run(Outbox(job.id, job.fence, directory)), directory, asked=True)
    storing.leave(settings.node, job.id)
