"""What a run would take, before it is started: an estimate, and called one wherever it shows."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import storage
from app.cluster import overview
from app.datasets.measures import service as measures
from app.datasets.measures import statistics
from app.datasets.rows import segments
from app.datasets.tables import DatasetVersion
from app.errors import DomainError
from app.jobs import mixing
from app.jobs.data import Data, Item
from app.jobs.spec import Hyperparameters

BYTES_PER_TOKEN = 4  # of text: about right for Chinese and for English
SAMPLE_ROWS = 300


@dataclass(frozen=True)
class Estimate:
    rows: int
    rows_per_step: int
    steps_per_epoch: int
    steps: int
    devices: int  # that are ready
    free: int  # of those, held by nobody


def estimate(
    db: Session, version: DatasetVersion, chosen: Hyperparameters, rows: int | None = None
) -> Estimate:
    """Steps as the trainer counts them. Rows without a usable answer, or too long, make fewer.

    `rows` are those of an epoch, where it does not simply have all of the version's.
    """
    rows = version.rows if rows is None else rows
    per_step = chosen.batch_size * chosen.gradient_accumulation
    per_epoch = math.ceil(rows / per_step)
    steps = chosen.max_steps or max(1, math.ceil(round(chosen.epochs * per_epoch, 6)))
    ready = [
        device
        for device in overview.devices(db, None)
        if device["healthy"] and device["node_state"] == "ready"
    ]
    return Estimate(
        rows=rows,
        rows_per_step=per_step,
        steps_per_epoch=per_epoch,
        steps=steps,
        devices=len(ready),
        free=sum(device["state"] == "free" for device in ready),
    )


# -- the mix -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A dataset of the mix: its rows once some are held back, and what an epoch has of it."""

    item: Item
    rows: int
    effective: int
    tokens: int  # of the effective rows
    measured: bool  # in this model's tokens; else guessed by the bytes of the text


@dataclass(frozen=True)
class Preview:
    parts: list[Part]
    rows: int  # of an epoch
    tokens: int
    measured: bool  # all of them
    validation_rows: int  # at most, where they are held back: duplicates stay together
    estimate: Estimate


def preview(
    db: Session, workspace_id: str, model_id: str, chosen: Data, settings: Hyperparameters
) -> Preview:
    """What an epoch would have. Raises Invalid when the mix cannot be."""
    held = chosen.held
    amounts = chosen.amounts(held)
    parts = []
    for item, amount, wanted in zip(chosen.items, amounts, mixing.effective(amounts), strict=True):
        version = item.version
        found = measured_tokens(db, workspace_id, model_id, version, settings.max_length)
        tokens = guess_tokens(version, settings.max_length) if found is None else found
        parts.append(
            Part(
                item=item,
                rows=amount.rows,
                effective=wanted,
                tokens=round(tokens * wanted / max(1, version.rows)),
                measured=found is not None,
            )
        )
    rows = sum(part.effective for part in parts)
    return Preview(
        parts=parts,
        rows=rows,
        tokens=sum(part.tokens for part in parts),
        measured=all(part.measured for part in parts),
        validation_rows=chosen.validation.rows if chosen.validation else held,
        estimate=estimate(db, chosen.main, settings, rows),
    )


def measured_tokens(
    db: Session, workspace_id: str, model_id: str, version: DatasetVersion, max_length: int
) -> int | None:
    """Of the whole version, cut at `max_length`; None unless it was measured for this model."""
    try:
        one = measures.find(db, version, statistics.model_of(db, workspace_id, model_id))
    except DomainError:
        return None
    if one is None or one.state != measures.DONE or not one.result:
        return None
    return int(one.result["tokens"]) - statistics.cut(one, max_length).lost


def guess_tokens(version: DatasetVersion, max_length: int) -> int:
    """By the bytes of the text: of the first rows, or of the file where they cannot be read."""
    try:
        sample = sampled(version.segments[0]["artefact"])
    except (OSError, IndexError):
        return version.bytes // BYTES_PER_TOKEN
    tokens = sum(min(size // BYTES_PER_TOKEN, max_length) for size in sample)
    return round(tokens * version.rows / max(1, len(sample)))


@lru_cache(maxsize=256)
def sampled(artefact: str) -> list[int]:
    """Bytes of text in each of a segment's first rows. Raises OSError."""
    lines = segments.lines(storage.fetch(artefact), 0, SAMPLE_ROWS)
    return [text_bytes(orjson.loads(line) | {"id": ""}) for line in lines]


def text_bytes(value: Any) -> int:
    """Bytes of all texts inside, the names of fields aside."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(text_bytes(one) for one in value.values())
    if isinstance(value, list):
        return sum(text_bytes(one) for one in value)
    return 0
