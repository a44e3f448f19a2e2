"""What a model of a known shape needs to be trained and to be served: by the formulas that jobs
and deployments use, with their defaults, before there are any files. Estimates, all of it.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster.tables import Device
from app.deployments import sizing
from app.jobs import memory, methods
from app.models.presets import Preset


@dataclass(frozen=True)
class Needs:
    """Bytes, on one GPU; `length` and `context` in tokens."""

    training: dict[str, int]  # method → bytes
    length: int  # of the longest row
    serving: sizing.Estimate
    context: int
    room: int  # of the largest device here; 0 before there is any


def needs(db: Session, preset: Preset) -> Needs:
    config, parameters, most = preset.config, preset.parameters, preset.context_length
    shape = memory.shape(config, parameters)
    length, training = 0, {}
    for method in methods.METHODS:
        settings = methods.complete(method, {}, context_length=most)
        length = min(settings.max_length, most)
        chosen: dict[str, Any] = settings.model_dump()
        parts = memory.parts(shape, method, chosen, kind="cuda", longest=length)
        training[method] = sum(part.bytes for part in parts)
    context = min(most, sizing.USUAL_LENGTH)
    serving = sizing.needs(
        sizing.Shape(2 * parameters, parameters, 0, 0, sizing.per_token(config)),
        engine="vllm",
        max_model_len=context,
        devices=1,
        memory=None,
        quantization="",
        arguments={},
    )
    room = db.scalar(select(func.max(Device.memory))) or 0
    return Needs(training, length, serving, context, room)
