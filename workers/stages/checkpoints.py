"""Checkpoints: directories `checkpoints/checkpoint-N` that count once they hold `complete`.

The marker is written last, after all else is on disk, so a kill at any moment leaves either a
whole checkpoint or none.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import N_
from workers.stages.run import StageError

COMPLETE = "complete"


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
    eval_loss: float | None = None
    eval_due: bool = False  # stopped before the evaluation of this step was done


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


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the `keep` newest complete checkpoints."""
    found = sorted(
        checkpoints.glob("checkpoint-*"),
        key=lambda path: int(path.name.split("-")[1]),
        reverse=True,
    )
    kept = [path for path in found if (path / COMPLETE).exists()][:keep]
    for path in found:
        if path not in kept:
            (path / COMPLETE).unlink(missing_ok=True)  # first: half a checkpoint is none
            shutil.rmtree(path, ignore_errors=True)


def flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
