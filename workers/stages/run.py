"""The run directory: all that a stage knows of the world, and all that it says to it.

    spec.json       in: what to do (app.jobs.spec), written once
    status.json     out: {state, phase, step, total, error}, replaced as a whole
    metrics.jsonl   out: one line per step, in order, each step once
    tensorboard/    out: the same, as TensorBoard reads it
    events.jsonl    out: {t, kind, message, params}; the message is a msgid
    log             what the stage prints; whoever starts it redirects it there
    finish          in: once it is there, stop at the next step and keep the result

The platform reads these files at its own pace and may be away for an hour. Nothing here needs
it: no network, no credentials, no database.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import N_, DomainError
from app.jobs.spec import RunSpec
from workers.stages.board import Board

Spec = TypeVar("Spec", bound=BaseModel)
# What libraries say when a device or a peer has gone: another attempt may well succeed.
LOST = (
    "DistBackendError",
    "DistNetworkError",
    "Connection closed by peer",
    "Connection reset by peer",
    "gloo/transport",
    "NCCL error",
    "CUDA error: uncorrectable ECC",
    "CUDA error: unspecified launch failure",
)
LEAVE_AFTER = 15.0  # seconds from SIGTERM until a step that still runs is given up


class StageError(Exception):
    """Why a run failed, for its user: a stable code and a sentence (a msgid) with its params."""

    def __init__(self, code: str, message: str, **params: Any) -> None:
        super().__init__(message % params if params else message)
        self.code = code
        self.message = message
        self.params = params


class Stopped(BaseException):
    """SIGTERM came, and there is nothing to wait for. No `except Exception` may swallow it."""


def ranks() -> tuple[int, int]:
    """Which of how many processes this is: torchrun says so where there are several."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def say(line: str) -> None:
    """One line of the log; of several processes only the first writes it."""
    if ranks()[0]:
        return
    print(time.strftime("%H:%M:%S"), line, flush=True)


class Run:
    """A run directory that is open for writing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.phase = "prepare"
        self.step = self.total = 0
        self.patient = False  # SIGTERM waits for the next step boundary
        self.stop_asked: float | None = None
        self.said = 0.0
        self.recorded: list[list[Any]] | None = None  # what is said, to be said again: see tokens
        self.rank, self.ranks = ranks()
        self.board = Board(directory / "tensorboard")

    def listen(self) -> None:
        """From now on SIGTERM (and Ctrl-C) ends the run in good order."""
        signal.signal(signal.SIGTERM, self.asked_to_stop)
        signal.signal(signal.SIGINT, self.asked_to_stop)

    def asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_asked = self.stop_asked or time.monotonic()
        if not self.patient:
            raise Stopped

    @property
    def finish_asked(self) -> bool:
        """Whether the steps taken so far shall be all, and their result be kept."""
        return (self.directory / "finish").exists()

    def check_overdue(self) -> None:
        """Give up the step under way if it would not end in time. Raises Stopped."""
        if self.stop_asked and time.monotonic() - self.stop_asked > LEAVE_AFTER:
            raise Stopped

    def spec(self, shape: type[Spec]) -> Spec:
        try:
            return shape.model_validate_json((self.directory / "spec.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise StageError(
                "invalid_spec",
                N_("The run's spec.json cannot be used: %(reason)s"),
                reason=str(error),
            ) from error

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.status("running")

    def progress(self, step: int) -> None:
        """At most a few times a second: a small model takes hundreds of steps in one."""
        self.step = step
        if time.monotonic() - self.said > 0.3 or step == self.total:
            self.status("running")

    def status(self, state: str, error: dict[str, Any] | None = None) -> None:
        """The first process speaks for all. Of a failure, whichever met it first."""
        self.said = time.monotonic()
        if self.ranks > 1 and ((self.rank and not error) or self.has_failed()):
            return
        replace(
            self.directory / "status.json",
            {
                "state": state,
                "phase": self.phase,
                "step": self.step,
                "total": self.total,
                "error": error,
            },
        )

    def has_failed(self) -> bool:
        try:
            return bool(json.loads((self.directory / "status.json").read_text())["error"])
        except (OSError, ValueError, KeyError):
            return False

    def line(self, line: str) -> None:
        """A line of the log that belongs to an event."""
        if self.recorded is not None:
            self.recorded.append(["", line, {}])
        say(line)

    def event(self, kind: str, message: str, **params: Any) -> None:
        """Something worth a line on the job's page, and in the log."""
        if self.rank:
            return
        if self.recorded is not None:
            self.recorded.append([kind, message, params])
        say(message % params if params else message)
        line = {"t": now(), "kind": kind, "message": message, "params": params}
        append(self.directory / "events.jsonl", line)

    def metric(self, line: dict[str, Any]) -> None:
        if self.rank:
            return
        append(self.directory / "metrics.jsonl", line | {"t": now()})
        self.board.add(line["step"], line)

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps that will be taken again, and a line cut short by a crash."""
        path = self.directory / "metrics.jsonl"
        if self.rank or not path.is_file():
            return
        kept = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept.append(line)
        partial = path.with_suffix(".partial")
        partial.write_bytes(b"".join(kept))
        partial.replace(path)


def now() -> float:
    return round(time.time(), 3)


def append(path: Path, line: dict[str, Any]) -> None:
    """One line, in one write: a reader never sees half of it for long."""
    with path.open("ab") as file:
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def replace(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False))
    partial.replace(path)


def execute(stage: Callable[[Run, Any], dict[str, Any]], shape: type[BaseModel] = RunSpec) -> int:
    """Run `stage` on the directory that the command line names; exit code 0 unless it failed.

    `shape` is what its spec.json holds.

    The stage returns what goes into result.json, the last file to appear before the status says
    succeeded. Every way out but SIGKILL leaves a final status.json.
    """
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("usage: python -m workers.stages.<stage> RUN_DIR", file=sys.stderr)
        return 2
    run = Run(Path(sys.argv[1]).resolve())
    try:
        run.listen()
        run.enter("prepare")
        result = stage(run, run.spec(shape))
        if run.rank == 0:
            replace(run.directory / "result.json", result)
        run.status("succeeded")
    except Stopped:
        return stopped(run)
    except BaseException as error:  # noqa: BLE001 - the last place that can say why
        if run.stop_asked and not run.patient:  # Stopped, as a library's own code passed it on
            traceback.print_exception(error)
            return stopped(run)
        run.patient = True
        return failed(run, error)
    else:
        say("Done.")
    return 0


def leave(code: int) -> NoReturn:
    """End this process at once. Taking torch and what it imported apart takes an interpreter some
    two seconds, in which the device is held and somebody waits for the result.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def stopped(run: Run) -> int:
    run.patient = True  # a second signal changes nothing
    say("Stopped.")
    run.status("stopped")
    return 0


def failed(run: Run, error: BaseException) -> int:
    known = named(error)
    if known.code == "lost":  # no last word, so that the job is tried again from its checkpoint
        traceback.print_exception(error)
        return 1
    if known.code == "disk_full":  # make room for the last words
        for directory in run.checkpoints.glob("checkpoint-*"):
            if not (directory / "complete").exists():
                shutil.rmtree(directory, ignore_errors=True)
    params = {name: str(value)[:2000] for name, value in known.params.items()}
    run.status("failed", {"code": known.code, "message": known.message, "params": params})
    with contextlib.suppress(OSError):  # the log may be on the full disk
        if not isinstance(error, StageError | DomainError):
            traceback.print_exception(error)
        say(f"Failed ({known.code}): {known}")
    return 1


def named(error: BaseException) -> StageError:
    """What happened, in words that help."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, StageError):
        return error
    if isinstance(error, DomainError):
        return StageError(error.code, error.message, **error.params)
    if disk_is_full(error):
        return disk_full()
    if "No space left on device" in text or "PytorchStreamWriter failed" in text:
        return disk_full()
    if isinstance(error, MemoryError) or "OutOfMemoryError" in text or "allocate memory" in text:
        return StageError(
            "out_of_memory",
            N_(
                "The device has too little memory for this run. Lower the tokens in a batch or the"
                " maximum length, or switch on gradient checkpointing."
            ),
        )
    if any(sign in text for sign in LOST):
        return StageError("lost", N_("A device, or another process of the run, was lost."))
    return StageError("crashed", N_("The run ended with an error: %(reason)s"), reason=text)


def disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def disk_full() -> StageError:
    return StageError(
        "disk_full",
        N_("The disk of the node is full. Free some space, then resume the job or start it again."),
    )


def leave_out(*names: str) -> None:
    """Packages that this run has no use for, and that others would import because they are there:
    to them they are not installed. Together they take seconds.
    """
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def quiet(threads: int) -> None:
    """Before torch and transformers are imported: no network, no chatter, no more threads."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "RAYON_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Threads that wait sleep. Spinning may be a little quicker on an idle machine, and is tens of
        # times slower on one that also serves: each core spins for a partner that has no core.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    warnings.simplefilter("ignore")
