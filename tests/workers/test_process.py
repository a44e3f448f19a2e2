"""Processes, for real: detached, found again, never mistaken, stopped whole."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import launch, process

HANG = "import time; print('here', flush=True); time.sleep(600)"
# Ignores SIGTERM, and so do a child in the same session and one that left it.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code])
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def run_python(directory: Path, code: str, run: int = 1, **kwargs: object) -> process.Process:
    return process.start(
        [sys.executable, "-c", code],
        cwd=directory,
        env=process.environment("job_test", run),
        log=directory / "log",
        **kwargs,
    )


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def said(directory: Path, word: str) -> Callable[[], bool]:
    return lambda: (directory / "log").exists() and word in (directory / "log").read_text()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of this test's own, so that markers of others are not ours; nothing is left over."""
    monkeypatch.setattr(process.settings, "home", tmp_path)
    yield tmp_path
    left = [member for members in process.attempts().values() for member in members]
    for member in left:
        process.send(member, signal.SIGKILL)
    assert not left


def test_starts_detached_in_its_own_session(tmp_path):
    found = run_python(tmp_path, HANG)
    wait_for(said(tmp_path, "here"))
    stat = Path(f"/proc/{found.pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(stat[1]) != os.getpid()  # nobody's child here, so no zombie later
    assert int(stat[3]) == found.pid
    assert str(Path(f"/proc/{found.pid}/fd/0").readlink()) == "/dev/null"
    assert {entry.name for entry in Path(f"/proc/{found.pid}/fd").iterdir()} == {"0", "1", "2"}
    assert process.alive(*found)
    assert not process.gone(*found)
    assert process.stop(*found)
    assert not process.alive(*found)
    assert process.gone(*found)
    wait_for(lambda: not Path(f"/proc/{found.pid}").exists())  # init has reaped it


def test_environment_is_an_allowlist(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = process.start(
        [sys.executable, "-c", "import os; print(dict(os.environ), flush=True)"],
        cwd=tmp_path,
        env=process.environment("job_a", 3, CUDA_VISIBLE_DEVICES="0,1"),
        log=tmp_path / "log",
    )
    wait_for(lambda: process.gone(*found))
    text = (tmp_path / "log").read_text()
    assert "secret" not in text
    assert "'DANLU_RUN': 'job_a-3'" in text
    assert "'CUDA_VISIBLE_DEVICES': '0,1'" in text


def test_an_exit_that_was_quick_is_still_identified(tmp_path):
    found = run_python(tmp_path, "raise SystemExit(1)")
    assert found.started > 0
    wait_for(lambda: not process.alive(*found))


def test_another_start_time_is_another_process(tmp_path):
    found = run_python(tmp_path, HANG)
    stale = process.Process(found.pid, found.started - 1)
    assert not process.alive(*stale)
    assert process.gone(*stale)
    assert not process.send(stale, signal.SIGKILL)
    assert process.stop(*stale, grace=0)
    assert process.alive(*found), "a stale identity must not hurt the one that has its pid now"
    process.stop(*found)


def test_a_zombie_is_not_alive():
    child = subprocess.Popen(["/bin/true"])
    identity = (child.pid, launch.started(child.pid))
    wait_for(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "Z")
    assert not process.alive(*identity)
    child.wait()


def test_stops_children_and_those_that_left_the_session(tmp_path):
    found = run_python(tmp_path, STUBBORN)
    wait_for(said(tmp_path, "ready"))
    wait_for(lambda: len(process.members(*found)) == 3)
    assert process.stop(*found, grace=0.5, run="job_test-1")
    assert process.leftovers("job_test", 1) == []


def test_finds_what_a_killed_leader_left(tmp_path):
    found = run_python(tmp_path, STUBBORN)
    wait_for(said(tmp_path, "ready"))
    wait_for(lambda: len(process.members(*found)) == 3)
    process.send(found, signal.SIGKILL)
    wait_for(lambda: not process.alive(*found))
    assert len(process.members(*found)) == 1  # in the session still
    assert len(process.members(*found, run="job_test-1")) == 2  # by its marker, too
    assert not process.gone(*found)
    assert len(process.leftovers("job_test", 1)) == 2
    assert process.leftovers("job_test", 2) == []
    assert process.stop(*found, grace=0.2, run="job_test-1")
    assert process.leftovers("job_test", 1) == []


def test_sigterm_goes_to_the_leader_first(tmp_path):
    """A trainer's own children must live while it writes its checkpoint."""
    code = f"""
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {HANG!r}])
def leave(*_):
    time.sleep(0.3)
    print("child", child.poll(), flush=True)
    raise SystemExit
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""
    found = run_python(tmp_path, code)
    wait_for(said(tmp_path, "ready"))
    assert process.stop(*found, grace=10)
    assert "child None" in (tmp_path / "log").read_text()


def test_started_once_per_pid_file(tmp_path):
    pidfile = tmp_path / "pid"
    first = run_python(tmp_path, HANG, pidfile=pidfile)
    assert run_python(tmp_path, HANG, pidfile=pidfile) == first
    process.stop(*first)
    assert run_python(tmp_path, HANG, pidfile=pidfile) == first  # even when it is dead
    assert process.leftovers("job_test", 1) == []


def _start_and_tell(directory: str, queue: "multiprocessing.Queue[process.Process]") -> None:
    queue.put(run_python(Path(directory), HANG, pidfile=Path(directory) / "pid"))


def test_started_once_by_many_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[process.Process] = context.Queue()
    starters = [
        context.Process(target=_start_and_tell, args=(str(tmp_path), queue)) for _ in range(6)
    ]
    for starter in starters:
        starter.start()
    found = {queue.get(timeout=30) for _ in starters}
    for starter in starters:
        starter.join()
    assert len(found) == 1
    assert len(process.leftovers("job_test", 1)) == 1
    assert process.stop(*found.pop())


def test_a_missing_program_is_an_error_and_leaves_no_pid_file(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        process.start(
            ["/no/such/python"],
            cwd=tmp_path,
            env={},
            log=tmp_path / "log",
            pidfile=tmp_path / "pid",
        )
    assert not (tmp_path / "pid").exists()
    with pytest.raises(OSError, match="No such file"):
        run_python(tmp_path / "nowhere", HANG)


def test_two_homes_do_not_see_each_other(tmp_path, monkeypatch):
    found = run_python(tmp_path, HANG)
    with monkeypatch.context() as other:
        other.setattr(process.settings, "home", tmp_path / "other")
        assert process.leftovers("job_test", 1) == []
        assert process.attempts() == {}
    assert process.attempts() == {"job_test-1": [found]}
    process.stop(*found)


def test_stops_an_attempt_without_knowing_a_pid(tmp_path):
    run_python(tmp_path, STUBBORN, run=7)
    wait_for(said(tmp_path, "ready"))
    wait_for(lambda: len(process.leftovers("job_test", 7)) == 3)
    assert process.stop_attempt("job_test", 6)
    assert len(process.leftovers("job_test", 7)) == 3
    assert process.stop_attempt("job_test", 7, grace=0.2)
    assert process.leftovers("job_test", 7) == []
