"""Start detached, find again, stop for good. The only place that signals anything.

A process is named by `(pid, started)`, see `workers.launch.started`: a reused pid has another
`started`, so it is never mistaken, and never signalled. What a run consists of is its whole
session, all descendants, and whatever carries its marker in the environment.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from app.config import settings
from workers import launch

# What a run may see of our environment. Everything else stays here: DATABASE_URL, keys, tokens.
PASSED = (
    *(
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
    ),
    *(
        "CUDA_HOME",
        "CUDA_DEVICE_ORDER",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    ),
    *("NCCL_SOCKET_IFNAME", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_DEBUG"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)


class Process(NamedTuple):
    pid: int
    started: float


def marker(owner: str, fence: int) -> str:
    """Names one attempt: also the name of its run directory."""
    return f"{owner}-{fence}"


def environment(owner: str, fence: int, **extra: str) -> dict[str, str]:
    """What the process of an attempt gets: an allowlist of ours, its marker, and `extra`."""
    return (
        {name: os.environ[name] for name in PASSED if name in os.environ}
        | {"DANLU_RUN": marker(owner, fence)}
        | {"DANLU_HOME": str(settings.home), "DANLU_NODE": settings.node}
        | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        | {"SPT_NOENV": "1"}  # setproctitle, in vLLM, leaves the environment readable
        | extra
    )


def start(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    pidfile: Path | None = None,
    nice: int = 0,
) -> Process:
    """Start `argv` in a session of its own, its output appended to `log`; returns who it is.

    With `pidfile` it is started at most once, whoever dies when: a second call returns the
    process that the file names, alive or not. Raises OSError if it cannot be started.
    """
    spec = {
        "argv": [str(part) for part in argv],
        "cwd": str(cwd),
        "env": dict(env),
        "log": str(log),
        "pidfile": str(pidfile) if pidfile else "",
        "nice": nice,
    }
    if not pidfile:
        return _launch(spec)
    # The launcher inherits the lock: were we killed now, the next starter would still wait for it.
    with Path(f"{pidfile}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return read_pidfile(pidfile) or _launch(spec, lock.fileno())


def _launch(spec: dict[str, object], *inherited: int) -> Process:
    done = subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__],
        input=json.dumps(spec),
        capture_output=True,
        text=True,
        pass_fds=inherited,
        timeout=60,
        check=False,
    )
    try:
        first, second = json.loads(done.stdout)
    except ValueError:
        raise OSError(f"the launcher failed: {done.stderr.strip()[-500:]}") from None
    if done.returncode:
        raise OSError(first, second)
    return Process(first, second)


def read_pidfile(path: Path) -> Process | None:
    try:
        pid, started = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return Process(pid, started)


def alive(pid: int, started: float) -> bool:
    """Does this very process run? A zombie does not, nor does another one with its pid."""
    entry = _read(pid)
    return entry is not None and entry.started == started


class _Entry(NamedTuple):
    pid: int
    parent: int
    session: int
    group: int
    started: float


def _read(pid: int) -> _Entry | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return _Entry(pid, int(fields[1]), int(fields[3]), int(fields[2]), launch.started(pid))
    except (OSError, ValueError, IndexError):
        return None


def _table() -> dict[int, _Entry]:
    entries = (_read(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return {entry.pid: entry for entry in entries if entry}


def _environ(pid: int) -> dict[str, str]:
    """Empty where it cannot be read, or where the process has overwritten it with a title."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)


def _carries(pid: int, run: str) -> bool:
    """Does its environment name our home and the attempt `run` (empty: any attempt)?"""
    environ = _environ(pid)
    mark = environ.get("DANLU_RUN", "")
    return bool(mark) and environ.get("DANLU_HOME") == str(settings.home) and run in ("", mark)


def members(pid: int, started: float, run: str = "") -> list[Process]:
    """All that lives of a run: its session and group, all descendants, and (given its marker
    `run`) what left both. The leader itself comes first while it lives.

    While a session has a member its number is not given to another process: a leader with
    another start time means that ours is gone. With no leader at all, the number may be that of
    a later session whose leader died too; there the environment must not speak against it.
    """
    table = _table()
    leader = table.get(pid)
    ours: set[int] = set()
    if leader is None or leader.started == started:
        ours = {
            entry.pid
            for entry in table.values()
            if pid in (entry.session, entry.group)
            and entry.started >= started
            and (leader or _carries(entry.pid, run) or not _environ(entry.pid))
        }
    if run:
        ours |= {entry for entry in table if entry != os.getpid() and _carries(entry, run)}
    grew = True
    while grew:
        children = {e.pid for e in table.values() if e.parent in ours} - ours
        ours |= children
        grew = bool(children)
    found = [Process(member, table[member].started) for member in ours]
    return sorted(found, key=lambda member: (member.pid != pid, member.started))


def gone(pid: int, started: float, run: str = "") -> bool:
    """Is nothing left of it, the whole group included?"""
    return not members(pid, started, run)


def leftovers(owner: str, fence: int) -> list[Process]:
    """What carries the marker of an attempt, and its descendants: needs no pid."""
    return attempts().get(marker(owner, fence), [])


def attempts() -> dict[str, list[Process]]:
    """Every process of this home and node that carries a marker, by attempt, oldest first."""
    found: dict[str, list[Process]] = {}
    for entry in sorted(_table().values(), key=lambda entry: entry.started):
        if entry.pid != os.getpid() and _carries(entry.pid, ""):
            run = _environ(entry.pid).get("DANLU_RUN", "")
            if run.rpartition("-")[2].isdigit():
                found.setdefault(run, []).append(Process(entry.pid, entry.started))
    return found


def send(process: Process, number: signal.Signals) -> bool:
    """Signal this very process; False if it is gone. The pidfd closes the gap between looking
    and signalling: it stays with the process that was looked at.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(*process):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def stop(pid: int, started: float, grace: float = 10.0, run: str = "") -> bool:
    """End all of a run; True once nothing is left of it. Safe to repeat, at any moment.

    SIGTERM goes to the leader, which knows its children and may need them to leave a checkpoint;
    to the others once it is gone. What is left after `grace` seconds is killed.
    False if something cannot be killed (a process stuck in the kernel): ask again later.
    """
    asked: set[Process] = set()
    deadline = time.monotonic() + grace
    while left := members(pid, started, run):
        if time.monotonic() >= deadline:
            return _kill(pid, started, run)
        leader = [member for member in left if member.pid == pid]
        for process in leader or left:
            if process not in asked:
                asked.add(process)
                send(process, signal.SIGTERM)
        if not leader:
            deadline = min(deadline, time.monotonic() + 3)
        time.sleep(0.05)
    return True


def _kill(pid: int, started: float, run: str) -> bool:
    deadline = time.monotonic() + 10
    while left := members(pid, started, run):
        for process in left:
            send(process, signal.SIGKILL)
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def stop_attempt(owner: str, fence: int, grace: float = 10.0) -> bool:
    """The same for an attempt whose pid nobody wrote down: by its marker alone."""
    found = leftovers(owner, fence)
    return not found or stop(*found[0], grace, marker(owner, fence))
