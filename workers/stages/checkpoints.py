"""Checkpoints: directories `checkpoints/checkpoint-N` that count once they hold `complete`.

The marker is written last, after all else is on disk, so a kill at any moment leaves either a
whole checkpoint or none.
"""

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.errors import N_
from workers.stages.run import StageError

COMPLETE = "complete"
# The adapter that a model is made of, where it is not the one that is trained. Two levels down: one
# right below is taken by the Trainer for a second adapter of the run.
WHOLE = Path("whole") / "adapter"


@dataclass
class Progress:
    """What a checkpoint knows beside weights, optimizer, schedule and random numbers.

    It is the content of the marker.
    """

    began: float  # unix time of the first attempt; templates that print the date see this one
    fingerprint: str = ""  # of data and settings: a run resumes only where it came from
    step: int = 0
    tokens: int = 0  # of all steps, without padding
    seconds: float = 0.0  # spent on steps, over all attempts
    loss: float | None = None  # of the last step
    eval_loss: float | None = None  # of the last evaluation
    eval_due: bool = False  # stopped before the evaluation of this step was done
    best_loss: float | None = None  # the lowest of all evaluations
    best_step: int = 0
    worse: int = 0  # evaluations since then
    early: bool = False  # it stops here, whatever the plan says
    base_answers: list[str] = field(default_factory=list)  # to the sample prompts, untuned


def load(checkpoint: Path) -> Progress:
    """Raises StageError when it cannot be resumed from."""
    try:
        return Progress(**json.loads((checkpoint / COMPLETE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StageError(
            "checkpoint_incomplete",
            N_("The checkpoint to resume from is not complete: %(name)s"),
            name=checkpoint.name,
        ) from error


def finish(checkpoint: Path, progress: Progress) -> None:
    """Mark the checkpoint just written as complete."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            flush(path)
    partial = checkpoint / f"{COMPLETE}.partial"
    partial.write_text(json.dumps(asdict(progress)))
    flush(partial)
    partial.rename(checkpoint / COMPLETE)
    flush(checkpoint)


def prune(checkpoints: Path, keep: int, stay: Collection[int] = ()) -> None:
    """Remove all but the `keep` newest complete checkpoints, and those of the steps `stay`."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=step_of, reverse=True)
    kept = [path for path in found if (path / COMPLETE).exists()]
    kept = kept[:keep] + [path for path in kept[keep:] if step_of(path) in stay]
    for path in found:
        if path not in kept:
            (path / COMPLETE).unlink(missing_ok=True)  # first: half a checkpoint is none
            shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def carry(checkpoint: Path, target: Path) -> None:
    """Have an earlier attempt's checkpoint among one's own, without a copy where disks allow."""
    if not (checkpoint / COMPLETE).exists() or (target / checkpoint.name / COMPLETE).exists():
        return
    target.mkdir(exist_ok=True)
    shutil.rmtree(target / checkpoint.name, ignore_errors=True)

    def link(source: str, place: str) -> str:
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
        return place

    partial = target / f".{checkpoint.name}"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, copy_function=link)
    partial.rename(target / checkpoint.name)


def flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
