"""Replicas on this node: starts engines, sees that they answer, ships their logs, stops them.

`start_replica` is the body of a Celery task; the rest is the node's loop. Both may die at any
moment: what they do next is read from the row, the run directory and the process table.
"""

import contextlib
import json
import secrets
import shutil
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import structlog
from sqlalchemy.exc import DBAPIError

from app import storage
from app.config import ROOT, settings
from app.db import now
from app.deployments import replicas
from app.deployments.replicas import ReplicaFacts, Running
from app.deployments.rolling import DRAIN
from app.nodework.asking import do
from app.queue import transaction
from workers import process
from workers.engines import health
from workers.engines.choice import ENGINES, choose
from workers.engines.common import Start
from workers.engines.trouble import START_LIMIT, TOO_SLOW, UNRESPONSIVE, cannot_start
from workers.outbox import tail
from workers.starting import alone, directory_of, draining

log = structlog.get_logger()

GRACE = 10.0  # seconds an engine has to finish what it answers
STRIKES = 3  # health checks lost in a row before an engine is started anew
BETWEEN_CHECKS = 5.0  # seconds
ROUTES_CHANGE = timedelta(seconds=3)  # gateways remember where to send for a second
BETWEEN_TOKENS = 60.0  # between two tokens asked of an engine that nobody uses
CHUNK = 64 * 1024  # bytes of log per transaction
END_OF_LOG = 64 * 1024  # bytes in which a failure's cause is looked for


# -- starting ----------------------------------------------------------------------------


def start_replica(replica_id: str, fence: int) -> None:
    """Start the engine, unless it is started, starting, or no longer wanted."""
    if do(replicas.start_facts, replica_id, fence) is None:
        return
    directory = directory_of(replica_id, fence)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(directory) as only:
        if only and not draining().exists():
            start_alone(replica_id, fence, directory)


def start_alone(replica_id: str, fence: int, directory: Path) -> None:
    facts = do(replicas.start_facts, replica_id, fence)
    if facts is None or not do(replicas.mark, replica_id, fence, phase="fetch"):
        return
    for earlier in range(fence - 1, max(fence - 4, 0), -1):
        shutil.rmtree(directory_of(replica_id, earlier), ignore_errors=True)
    try:
        found, said = launch(facts, directory)
    except DBAPIError:
        raise
    except Exception as trouble:
        log.exception("cannot start an engine", replica=replica_id, fence=fence)
        do(replicas.end, replica_id, fence, cannot_start(trouble))
        return
    wanted = do(
        replicas.mark_started,
        replica_id,
        fence,
        pid=found.pid,
        pid_started=found.started,
        **said,
    )
    log.info("engine started", replica=replica_id, fence=fence, pid=found.pid, **said_openly(said))
    if not wanted:
        process.stop(*found, GRACE, process.marker(replica_id, fence))


def launch(facts: ReplicaFacts, directory: Path) -> tuple[process.Process, dict[str, str]]:
    """The engine's process, and how to reach it: {address, secret, engine}.

    What was decided once (port, secret) stands in `engine.json`, so that a second try finds the
    process of the first.
    """
    engine = choose(facts.engine, facts.adapter is not None)
    marker = process.marker(facts.replica_id, facts.fence)
    storage.hold(marker, filter(None, [facts.model, facts.adapter]))
    model = storage.fetch(facts.model)
    adapter = storage.fetch(facts.adapter) if facts.adapter else None
    said = directory / "engine.json"
    if not said.exists():
        port = free_port()
        partial = said.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(
            json.dumps(
                {
                    "address": f"http://{settings.node_host}:{port}",
                    "secret": secrets.token_urlsafe(32),
                    "engine": engine.NAME,
                }
            )
        )
        partial.rename(said)
    known: dict[str, str] = json.loads(said.read_text())
    command = ENGINES[known["engine"]].command(
        Start(
            facts=facts,
            model=model,
            adapter=adapter,
            host=settings.node_host,
            port=int(known["address"].rpartition(":")[2]),
            secret=known["secret"],
            directory=directory,
        )
    )
    found = process.start(
        command.argv,
        cwd=ROOT,
        env=process.environment(facts.replica_id, facts.fence, **command.env),
        log=directory / "log",
        pidfile=directory / "pid",
    )
    return found, known


def free_port() -> int:
    """A port nobody listens on just now; should it be taken in between, the start is repeated."""
    with socket.socket() as probe:
        probe.bind((settings.node_host, 0))
        port: int = probe.getsockname()[1]
        return port


def said_openly(said: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in said.items() if name != "secret"}


# -- looking after -----------------------------------------------------------------------


@dataclass
class Care:
    """What this process remembers of an engine; all of it can be found again."""

    task: Future[None] | None = None
    next_check: float = 0.0
    next_token: float = 0.0  # when one is asked for, if nobody else asks
    generated: float = -1.0  # tokens so far, at the last check
    silent: int = 0  # times that a draining engine did not say whether it is busy


known: dict[tuple[str, int], Care] = {}
pool = ThreadPoolExecutor(16, thread_name_prefix="replicas")  # checks and stops take a while


def tick(node_id: str) -> None:
    """One look at every replica of this node. Short: what takes long runs in threads."""
    with transaction() as db:
        active = replicas.active_on(db, node_id)
    for key in known.keys() - {(one.id, one.fence) for one in active}:
        del known[key]
    for one in active:
        care = known.setdefault((one.id, one.fence), Care())
        if care.task and not care.task.done():
            continue
        if care.task and (trouble := care.task.exception()):
            log.error("cannot look after a replica", replica=one.id, error=str(trouble))
        care.task = pool.submit(look_after, one, care)


def look_after(one: Running, care: Care) -> None:
    directory = directory_of(one.id, one.fence)
    if one.pid is None or one.pid_started is None:
        adopt(one, directory)
        return
    text = ship(one, directory)
    if one.state == "stopping":
        if not still_answering(one, care):
            finish(one, directory, None)
    elif not process.alive(one.pid, one.pid_started):
        finish(one, directory, explain(one, directory))
    elif one.state == "starting":
        see_it_start(one, text, directory)
    elif time.monotonic() >= care.next_check:
        care.next_check = time.monotonic() + BETWEEN_CHECKS
        see_it_live(one, care, directory)


def adopt(one: Running, directory: Path) -> None:
    """A replica without a pid: record a process whose starter died, or give up one not wanted."""
    found = process.read_pidfile(directory / "pid")
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((directory / "engine.json").read_text())
        if found:
            do(
                replicas.mark_started,
                one.id,
                one.fence,
                pid=found.pid,
                pid_started=found.started,
                **said,
            )
            return
    if one.state != "scheduled":
        abandon(one, directory)


def abandon(one: Running, directory: Path) -> bool:
    """End a start that never began; False if somebody is starting it just now."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(directory) as only:
        if not only or process.read_pidfile(directory / "pid"):
            return False
        do(replicas.end, one.id, one.fence)
    return True


def still_answering(one: Running, care: Care) -> bool:
    """Whether an engine that is to leave has requests to finish, as long as it is given. For a
    moment after it was asked, gateways may still send it some.
    """
    if one.drain_until is None or now() >= one.drain_until:
        return False
    if not process.alive(one.pid or 0, one.pid_started or 0.0):
        return False
    if now() < one.drain_until - DRAIN + ROUTES_CHANGE:
        return True
    busy = health.busy(one.address, one.secret, ENGINES[one.engine].BUSY)
    care.silent = care.silent + 1 if busy is None else 0
    return care.silent < STRIKES if busy is None else busy


def see_it_start(one: Running, text: str, directory: Path) -> None:
    engine = ENGINES[one.engine]
    phase, progress = engine.phase(text, one.phase), engine.progress(text)
    if phase != one.phase or progress not in (None, one.progress):
        do(replicas.mark, one.id, one.fence, phase=phase, progress=progress)
    up = health.up(one.address, one.secret, one.name)
    if up and phase != "check":
        do(replicas.mark, one.id, one.fence, phase="check")
    if up and health.one_token(one.address, one.secret, one.name):
        memory = memory_of(one)
        do(replicas.mark, one.id, one.fence, state="ready", phase="", memory=memory)
        log.info("engine ready", replica=one.id, fence=one.fence)
    elif one.started_at and now() - one.started_at > START_LIMIT:
        finish(one, directory, TOO_SLOW)


def see_it_live(one: Running, care: Care, directory: Path) -> None:
    """It answers, and makes tokens: for others since the last look, or else one for us, so that
    an engine that hangs is found out, and one that is busy is not taken for hanging.
    """
    generated = health.generated(one.address, one.secret, ENGINES[one.engine].COUNTER)
    fine = generated is not None
    if fine and generated != care.generated:
        care.next_token = time.monotonic() + BETWEEN_TOKENS if care.generated >= 0 else 0.0
    if fine and time.monotonic() >= care.next_token:
        fine = health.one_token(one.address, one.secret, one.name)
        care.next_token = time.monotonic() + BETWEEN_TOKENS if fine else 0.0
    if generated is not None:
        care.generated = generated
    strikes = 0 if fine else one.strikes + 1
    state = "ready" if fine else "unhealthy" if strikes >= STRIKES else one.state
    if (strikes, state) != (one.strikes, one.state):
        do(replicas.mark, one.id, one.fence, state=state, strikes=strikes)
    if state == "unhealthy":
        log.warning("engine does not answer", replica=one.id, strikes=strikes)
        finish(one, directory, UNRESPONSIVE)


def explain(one: Running, directory: Path) -> dict[str, Any]:
    size = (directory / "log").stat().st_size if (directory / "log").exists() else 0
    text = tail(directory / "log", max(0, size - END_OF_LOG), END_OF_LOG).decode(errors="replace")
    found: dict[str, Any] = ENGINES[one.engine].explain(text)
    return found


def memory_of(one: Running) -> int | None:
    """Bytes of main memory that the engine holds, pages it shares counted once; None if on GPUs."""
    with transaction() as db:
        facts = replicas.devices_of(db, one.id)
    if any(name.startswith("cuda") for name in facts) or one.pid is None:
        return None
    total = 0
    for member in process.members(one.pid, one.pid_started or 0.0):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(member.pid).memory_full_info().pss
    return total or None


def ship(one: Running, directory: Path) -> str:
    """Send what is new in the engine's log; returns it as text."""
    offset, said = one.shipped, b""
    while data := tail(directory / "log", offset, CHUNK):
        if not do(replicas.ship_log, one.id, one.fence, offset, data):
            break
        offset += len(data)
        said += data
        if len(said) > 8 * CHUNK:  # the rest next time: a flood must not hold up the checks
            break
    return said.decode(errors="replace")


# -- the end -----------------------------------------------------------------------------


def finish(one: Running, directory: Path, error: dict[str, Any] | None) -> None:
    """Stop what is left of the engine, see it gone, then give its devices back."""
    if error is None or process.alive(one.pid or 0, one.pid_started or 0.0):
        with transaction() as db:  # look again before anything is signalled
            current = replicas.running(db, one.id, one.fence)
        if current is None or (error is None and current.state != "stopping"):
            return
    if not stop(one):
        log.error("processes that cannot be killed", replica=one.id, pid=one.pid)
        return
    ship(one, directory)
    ended = do(replicas.end, one.id, one.fence, error)
    if ended:  # all that counts is in the rows
        shutil.rmtree(directory, ignore_errors=True)
    log.info("engine ended", replica=one.id, fence=one.fence, error=error and error["code"])


def stop(one: Running) -> bool:
    assert one.pid is not None
    assert one.pid_started is not None
    return process.stop(one.pid, one.pid_started, GRACE, process.marker(one.id, one.fence))


def drain(node_id: str) -> None:
    """Stop all engines; what should run stays in the rows and starts again with the node."""
    with transaction() as db:
        active = replicas.active_on(db, node_id)
    for done in [pool.submit(drain_one, one) for one in active]:
        if trouble := done.exception():
            log.warning("an engine is not drained", error=str(trouble))


def drain_one(one: Running) -> None:
    directory = directory_of(one.id, one.fence)
    deadline = time.monotonic() + 20
    while one.pid is None:
        if process.read_pidfile(directory / "pid"):
            adopt(one, directory)
            with transaction() as db:
                current = replicas.running(db, one.id, one.fence)
            if current is None:
                return
            one = current
        elif abandon(one, directory) or time.monotonic() > deadline:
            return
        else:
            time.sleep(0.1)
    if stop(one):
        ship(one, directory)
        do(replicas.end, one.id, one.fence)
        shutil.rmtree(directory, ignore_errors=True)
