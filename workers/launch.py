"""Become a detached process; run as a script by `workers.process.start`, never imported for more
than `started`.

A double fork: the process ends up as nobody's child here, so it outlives us and leaves no
zombie. It writes its own identity into the pid file before it becomes `argv`, so there is no
moment in which it runs and nobody could find it.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def started(pid: int | str) -> float:
    """When and in which boot a process started, as one number that no clock step can change.

    Clock ticks since boot (33 bits, 2.7 years) below 20 bits of the boot's id: 53 bits, so a
    double holds it exactly. With the pid it names one process for ever.
    Raises OSError if there is no such process.
    """
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    ticks = int(stat[stat.rindex(b")") + 2 :].split()[19])
    boot = int(Path("/proc/sys/kernel/random/boot_id").read_text()[:5], 16)
    return float((boot << 33) | ticks)


def become(spec: dict[str, Any]) -> None:
    """In the grandchild: own session, own files, default signals, then `argv`."""
    os.setsid()
    if spec["nice"]:
        os.nice(spec["nice"])
        with contextlib.suppress(OSError):  # kernels that share time by session heed only this
            Path("/proc/self/autogroup").write_text(str(spec["nice"]))
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGPIPE,
        signal.SIGUSR1,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(spec["cwd"])
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if spec["pidfile"]:
        partial = Path(f"{spec['pidfile']}.partial")
        partial.write_text(json.dumps([os.getpid(), started("self")]))
        partial.rename(spec["pidfile"])
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(int(entry.name), False)
    os.execve(spec["argv"][0], spec["argv"], spec["env"])


def main() -> None:
    """Spec on stdin as JSON; on stdout `[pid, started]`, or `[errno, message]` and exit 1."""
    spec = json.load(sys.stdin)
    reader, writer = os.pipe()  # closed by a good exec, written to by a failed one
    pid = os.fork()
    if pid == 0:
        try:
            become(spec)
        except OSError as error:
            if spec["pidfile"]:
                Path(spec["pidfile"]).unlink(missing_ok=True)
            os.write(writer, json.dumps([error.errno, str(error)]).encode())
        finally:
            os._exit(127)
    os.close(writer)
    if failure := os.read(reader, 65536):
        sys.stdout.write(failure.decode())
        sys.exit(1)
    # The child is still ours, so its entry stands even if it has exited already.
    json.dump([pid, started(pid)], sys.stdout)


if __name__ == "__main__":
    main()
