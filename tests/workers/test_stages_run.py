"""The run directory as a stage writes it."""

import errno
import json
import subprocess
import sys

import pytest

from app.config import ROOT
from app.errors import Invalid
from workers.stages.run import Run, StageError, Stopped, named


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StageError("diverged", "x"), "diverged"),
        (Invalid("x", code="chat_template"), "chat_template"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (RuntimeError("Error: I/O error: No space left on device (os error 28)"), "disk_full"),
        (
            RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed"),
            "disk_full",
        ),
        (MemoryError(), "out_of_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), "out_of_memory"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            ),
            "out_of_memory",
        ),
        (ZeroDivisionError("division by zero"), "crashed"),
    ],
)
def test_errors_have_names(error, code):
    found = named(error)
    assert found.code == code
    assert str(found)


def test_metrics_after_a_step_are_forgotten(tmp_path):
    run = Run(tmp_path)
    run.forget_after(3)
    for step in (1, 2, 3):
        run.metric({"step": step, "loss": 1.0})
    run.metric({"step": 2, "eval_loss": 1.0})
    run.metric({"step": 4, "loss": 1.0})
    run.forget_after(3)
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["step"] for line in kept] == [1, 2, 3, 2]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("{")
    run.forget_after(9)
    run.metric({"step": 4, "loss": 1.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [
        1,
        2,
        3,
        2,
        4,
    ]


def test_a_stop_waits_for_a_step_but_not_for_ever(tmp_path, monkeypatch):
    run = Run(tmp_path)
    with pytest.raises(Stopped):
        run.asked_to_stop(15, None)
    run.stop_asked = None
    run.patient = True
    run.asked_to_stop(15, None)
    first = run.stop_asked
    assert first is not None
    run.check_overdue()
    run.asked_to_stop(15, None)
    assert run.stop_asked == first
    monkeypatch.setattr("workers.stages.run.LEAVE_AFTER", 0)
    with pytest.raises(Stopped):
        run.check_overdue()


@pytest.mark.parametrize("arguments", [[], ["/nowhere/at/all"], ["a", "b"]])
def test_the_command_line(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "workers.stages.merge", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "RUN_DIR" in done.stderr
