"""A node's own process: `python -m workers.node`. Says what the node has, and makes what runs
there equal what should run.

SIGTERM: leave, and leave the runs alone; the next node process adopts them. SIGUSR1, and SIGTERM
after `--drain-on-term`: stop them first, trainers with a checkpoint, so that all can go on later.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app import logs, storage, tables
from app.cluster import health, nodes, readings
from app.config import settings
from app.datasets.measures import service as wanted_measures
from app.deployments import replicas as deployments
from app.jobs import checkpoints as wanted_checkpoints
from app.jobs import loads
from app.jobs import runs as jobs
from app.nodework.asking import Removed, do
from app.queue import transaction
from workers import (
    adapters,
    checkpoints,
    clearing,
    disks,
    engine_metrics,
    gpus,
    inventory,
    measures,
    process,
    replicas,
    reporters,
    runs,
    storing,
    strangers,
)
from workers.stages import layouts
from workers.starting import STALE_GRACE, draining

__all__ = ["tables"]  # imported so that all foreign keys are known

log = structlog.get_logger()

BEAT = 5.0  # seconds between two heartbeats
PERIOD = 0.5  # between two looks at what runs
SILENCE = 60.0  # after so long without a heartbeat, others may have been given our work
CLEARING = 600.0
PROBING = 300.0


class Guarded:
    """Calls what may fail for as long as it likes, and logs the first failure and the recovery."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing = ""

    def __call__(self, function: Callable[..., object], *args: object) -> bool:
        try:
            function(*args)
        except SQLAlchemyError as error:  # most likely the database is away: no traceback
            if not self.failing:
                log.warning("does not work; trying again", what=self.name, why=str(error)[:500])
            self.failing = str(error)
            return False
        except Exception as error:
            if not self.failing:
                log.exception("does not work; trying again", what=self.name)
            self.failing = str(error) or "?"
            return False
        if self.failing:
            log.info("works again", what=self.name)
            self.failing = ""
        return True


# -- heartbeat ---------------------------------------------------------------------------


class Heart(threading.Thread):
    """Tells the database every 5 s what this node has, whatever else goes on here."""

    def __init__(self, node_id: str) -> None:
        super().__init__(name="heart", daemon=True)
        self.node_id = node_id
        self.facts: dict[str, Any] = inventory.versions() | {"engines": {}}
        self.gpus = gpus.Gpus()
        self.cpus = inventory.Cpus()
        self.labels = nodes.parse(settings.node_labels)  # told once
        self.leaving = threading.Event()
        self.last = -SILENCE
        self.read = 0.0  # when devices were last read for good
        self.guarded = Guarded("heartbeat")
        threading.Thread(target=self.probe, name="probe", daemon=True).start()

    def run(self) -> None:
        while not self.leaving.is_set():
            self.guarded(self.beat)
            self.leaving.wait(BEAT)

    def beat(self) -> None:
        """After a long silence, stale runs are killed before anybody hears that we are back."""
        try:
            if time.monotonic() - self.last > SILENCE:
                kill_stale(self.node_id)
            self.tell(self.devices())
            self.last = time.monotonic()
            kill_stale(self.node_id)
        except Removed as error:
            leave_for_good(error)
        except SQLAlchemyError:
            ask_whether_removed(self.node_id)
            raise

    def devices(self) -> list[dict[str, Any]]:
        with transaction() as db:
            holders = nodes.holders(db, self.node_id)
        found = self.gpus.list() or self.cpus.list(holders)
        return strangers.mark(found, holders)

    def tell(self, devices: list[dict[str, Any]]) -> None:
        at = time.monotonic()
        facts = self.facts | self.gpus.versions | {"shipping_lag": runs.shipping_lag()}
        facts |= {"disk": disks.look(), "stored": disks.stored}
        do(nodes.beat, self.node_id, settings.node_host, facts, devices, self.labels)
        do(loads.record, self.node_id)
        if at - self.read >= readings.PERIOD - BEAT / 2:
            do(readings.record, self.node_id, min(at - self.read, 2 * readings.PERIOD))
            self.read = at
        self.labels = {}

    def say_goodbye(self) -> None:
        """The last beat before the node goes down on purpose: nothing new may come here."""
        self.leaving.set()
        self.join(10)
        gone = {"healthy": False, "problems": [health.LEAVING]}
        self.tell([device | gone for device in self.devices()])

    def probe(self) -> None:
        """Find out which benchmarks lie here and which engines work; again when that changes."""
        while not self.leaving.is_set():
            self.facts = self.facts | {
                "reporters": reporters.available(),
                "reporters_installed": reporters.installed(),
                "benchmarks": layouts.ready(settings.benchmark_data),
            }
            for name in inventory.PROBES:
                found = inventory.engine(name)
                self.facts = self.facts | {"engines": self.facts["engines"] | {name: found}}
            self.leaving.wait(PROBING)


def ask_whether_removed(node_id: str) -> None:
    """A node that was removed gets nowhere in the database; the platform says why."""
    if settings.server:
        try:
            do(wanted_checkpoints.on_node, node_id)
        except Removed as error:
            leave_for_good(error)


def leave_for_good(error: Removed) -> None:
    """What runs here was given to others: end it, and this process."""
    log.error("this node was removed", why=error.message)
    for run in process.attempts():
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), STALE_GRACE)
    os.kill(os.getpid(), signal.SIGTERM)


def kill_stale(node_id: str) -> None:
    """End every process of this node that belongs to no attempt in force."""
    found = process.attempts()  # before the rows are read: what starts later is not in it
    holders = storage.holders()
    if not found and not holders:
        return
    with transaction() as db:
        current = {process.marker(job.id, job.fence) for job in jobs.active_on(db, node_id)}
        current |= {process.marker(one.id, one.fence) for one in deployments.active_on(db, node_id)}
        current |= {
            process.marker(one.id, one.fence) for one in wanted_measures.active_on(db, node_id)
        }
    storage.let_go(holders - current)
    for run in found.keys() - current:
        log.warning("killing a stale run", run=run)
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), STALE_GRACE)


# -- the loop ----------------------------------------------------------------------------


class Signals:
    """What we were asked: to leave, or to drain and leave."""

    def __init__(self, drain_on_term: bool) -> None:
        self.leave = threading.Event()
        self.drain = False
        signal.signal(signal.SIGTERM, self.drained if drain_on_term else self.left)
        signal.signal(signal.SIGINT, self.drained if drain_on_term else self.left)
        signal.signal(signal.SIGUSR1, self.drained)

    def left(self, *_: object) -> None:
        self.leave.set()

    def drained(self, *_: object) -> None:
        self.drain = True
        self.leave.set()


def loop(node_id: str, asked: Signals) -> None:
    """Look after runs, replicas and measures, each in a thread: none waits for the others."""
    parts = [
        threading.Thread(target=tend, args=(name, tick, PERIOD, node_id, asked.leave), name=name)
        for name, tick in (
            ("runs", runs.tick),
            ("replicas", replicas.tick),
            ("adapters", adapters.tick),
            ("measures", measures.tick),
            ("checkpoints", checkpoints.tick),
            ("storing", storing.tick),
            ("metrics", engine_metrics.tick),
            ("disk", disks.tick),
        )
    ]
    for part in parts:
        part.start()
    cleared = -CLEARING
    clear = Guarded("clearing up")
    while not asked.leave.wait(PERIOD):
        if time.monotonic() - cleared > CLEARING:
            cleared = time.monotonic()
            clear(clearing.clear)
            clear(disks.measure)
            clear(measures.clear)
    for part in parts:
        part.join()


def tend(
    name: str, tick: Callable[[str], None], period: float, node_id: str, leave: threading.Event
) -> None:
    guarded = Guarded(name)
    while not leave.is_set():
        leave.wait(period if guarded(tick, node_id) else 2 * period)


def drain(node_id: str, heart: Heart) -> None:
    """Stop everything so that it can go on later, and say so in the rows if they can be had."""
    draining().touch()
    Guarded("goodbye")(heart.say_goodbye)
    with ThreadPoolExecutor() as together:
        for part in (runs, replicas, measures):
            together.submit(Guarded(f"draining {part.__name__}"), part.drain, node_id)
    for run in process.attempts():  # without the database, we could not know of them
        owner, _, fence = run.rpartition("-")
        process.stop_attempt(owner, int(fence), runs.SAVE_GRACE)


def alone(asked: Signals) -> IO[str] | None:
    """The lock that makes us the only process of this node; None if asked to leave meanwhile."""
    lock = (settings.home / f"node-{settings.node}.lock").open("w")
    while not asked.leave.is_set():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            asked.leave.wait(0.2)
        else:
            return lock
    return None


def main() -> None:
    logs.configure()
    asked = Signals("--drain-on-term" in sys.argv[1:])
    settings.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = alone(asked)
    if lock is None:
        return
    draining().unlink(missing_ok=True)
    log.info("node starts", node=settings.node)
    heart = Heart(settings.node)
    heart.start()
    loop(settings.node, asked)
    if asked.drain:
        log.info("node drains", node=settings.node)
        drain(settings.node, heart)
    log.info("node leaves", node=settings.node, drained=asked.drain)


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # a thread that waits for a process to end: the next node waits for it again
