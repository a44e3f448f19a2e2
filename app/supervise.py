"""Child processes of `danlu up`: start, start again, stop, and find what an earlier one left."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

LONGEST_PAUSE = 30.0  # seconds between a death and the next start
TAKE_OVER = signal.SIGUSR2  # to a supervisor: make way, and leave the runs alone
MARK = "DANLU_UP"  # in the environment of our children: whose they are


class Refused(Exception):
    """Why `danlu up` cannot run here; one sentence."""


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk, or nobody reads any more
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class Child:
    """One supervised process. Start it from a thread that lives on: it dies with that thread."""

    def __init__(
        self,
        name: str,
        launch: Callable[[], subprocess.Popen[bytes]],
        *,
        ends_by: signal.Signals = signal.SIGTERM,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self.launch = launch
        self.ends_by = ends_by
        self.ready = ready
        self.process: subprocess.Popen[bytes] | None = None
        self.is_ready = False
        self.failures = 0  # deaths in a row, each soon after its start
        self.started = 0.0
        self.again_at = 0.0

    def start(self) -> None:
        self.started = time.monotonic()
        self.is_ready = False
        self.process = self.launch()

    def tend(self) -> None:
        """Start it again if it died, later and later while it keeps dying."""
        if self.process is None:
            if time.monotonic() >= self.again_at:
                self.start()
        elif (status := self.process.poll()) is not None:
            self.lost(f"signal {-status}" if status < 0 else f"status {status}")
        elif not self.is_ready:
            self.is_ready = self.ready()

    def lost(self, how: str) -> None:
        if self.process:
            kill_group(self.process.pid)
        self.process = None
        lived = time.monotonic() - self.started
        self.failures = 1 if lived > LONGEST_PAUSE else self.failures + 1
        self.again_at = time.monotonic() + min(0.2 * 4 ** (self.failures - 1), LONGEST_PAUSE)
        say(f"{self.name} ended ({how}); starting it again · 进程退出，正在重启")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ask(self, kind: signal.Signals | None = None) -> None:
        """Send the signal it ends by, or another one."""
        if self.process and self.running:
            self.process.send_signal(kind or self.ends_by)

    def end(self) -> None:
        """Kill what is left of it."""
        if self.process:
            kill_group(self.process.pid)
            self.process.wait()


def kill_group(pid: int) -> None:
    """All of a child's session, such as a pool's processes."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


# -- one home, one supervisor ------------------------------------------------------------


def claim(home: Path, parts: Iterable[str]) -> ExitStack:
    """Locks on parts of the home, held until this process ends or the result is closed.

    Raises Refused if another process has one of them.
    """
    locks = ExitStack()
    for part in sorted(parts):
        lock = locks.enter_context((home / f"up-{part}.lock").open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            locks.close()
            raise Refused(
                f"Danlu already runs in {home} (process {owner}). "
                "Stop it first, or set DANLU_HOME to another directory. · "
                "该目录下已有 Danlu 在运行，请先停止它，或用 DANLU_HOME 指定其他目录。"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    return locks


def take_over(home: Path, parts: Iterable[str], seconds: float = 60) -> None:
    """Have the supervisors of these parts leave, if any run. Raises Refused if one does not."""
    end = time.monotonic() + seconds
    asked: set[int] = set()
    for path in (home / f"up-{part}.lock" for part in sorted(parts)):
        while path.exists() and (owner := owner_of(path)):
            if owner not in asked:
                asked.add(owner)
                os.kill(owner, TAKE_OVER)
            if time.monotonic() > end:
                raise Refused(
                    f"The Danlu in {home} (process {owner}) does not make way. · "
                    "正在运行的 Danlu 没有退出。"
                )
            time.sleep(0.1)


def owner_of(path: Path) -> int:
    """Who holds a lock of `claim`; 0 if nobody does."""
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            return int(lock.read().strip() or 0)
    return 0


def claim_port(host: str, port: int) -> None:
    """Raises Refused if nothing could listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise Refused(
            f"Danlu cannot listen on {host}:{port} ({error.strerror}). Set DANLU_HOST and "
            "DANLU_PORT to a free address. · 该地址或端口不可用，请设置 DANLU_HOST 和 DANLU_PORT。"
        ) from None


def mark(home: Path, part: str) -> dict[str, str]:
    """What a child carries in its environment, so that a later supervisor knows it."""
    return {MARK: f"{home}:{part}"}


def marked(home: Path, parts: Iterable[str], *, runs: bool) -> Iterator[int]:
    """Children that an earlier supervisor had as `parts`; with `runs` trainers and engines too."""
    children = {f"{MARK}={home}:{part}".encode() for part in parts}
    place = f"DANLU_HOME={home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            values = set((entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        is_run = place in values and any(value.startswith(b"DANLU_RUN=") for value in values)
        if values & children or (runs and is_run):
            yield int(entry.name)


def end_marked(home: Path, parts: Iterable[str], *, runs: bool, grace: float) -> None:
    """End what is left of them: session leaders kindly, all of it after `grace` seconds."""
    end = time.monotonic() + grace
    asked: set[int] = set()
    while left := list(marked(home, parts, runs=runs)):
        late = time.monotonic() - end
        if late > 10:
            say(f"Processes that cannot be ended: {left}")
            return
        for pid in left:
            try:
                if late > 0:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked and os.getsid(pid) == pid:
                    asked.add(pid)
                    os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
