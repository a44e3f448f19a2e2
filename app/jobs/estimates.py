"""What a run would take, before it is started: an estimate, and called one wherever it shows."""

import math
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.cluster import overview
from app.datasets.tables import DatasetVersion
from app.jobs.spec import Hyperparameters


@dataclass(frozen=True)
class Estimate:
    rows: int
    rows_per_step: int
    steps_per_epoch: int
    steps: int
    devices: int  # that are ready
    free: int  # of those, held by nobody


def estimate(db: Session, version: DatasetVersion, chosen: Hyperparameters) -> Estimate:
    """Steps as the trainer counts them. Rows without a usable answer, or too long, make fewer."""
    per_step = chosen.batch_size * chosen.gradient_accumulation
    per_epoch = math.ceil(version.rows / per_step)
    steps = chosen.max_steps or max(1, math.ceil(round(chosen.epochs * per_epoch, 6)))
    ready = [
        device
        for device in overview.devices(db, None)
        if device["healthy"] and device["node_state"] == "ready"
    ]
    return Estimate(
        rows=version.rows,
        rows_per_step=per_step,
        steps_per_epoch=per_epoch,
        steps=steps,
        devices=len(ready),
        free=sum(device["state"] == "free" for device in ready),
    )
