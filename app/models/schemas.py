"""What `/api/v1/models` answers, and the filters of the model list."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["base", "tuned", "adapter", "merged"]


class ModelOut(BaseModel):
    """A model of the registry. `parameters` counts numbers, `size` bytes, `context_length` tokens."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    kind: str  # base, adapter or merged
    shared: bool  # belongs to the platform; every workspace sees it
    architecture: str
    parameters: int
    context_length: int
    size: int
    licence: str
    base_id: str | None
    parent_id: str | None
    job_id: str | None
    created_at: datetime


class Ancestor(BaseModel):
    """A model that this one was made from, and how that one was made."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    kind: str
    job_id: str | None
    lineage: dict[str, Any]


class ModelDetail(ModelOut):
    """With where it came from: `ancestors` from the base on, and what its job recorded."""

    ancestors: list[Ancestor]
    lineage: dict[str, Any]  # dataset {id, version, hash, rows}, spec, measured, libraries …


class Models(BaseModel):
    data: list[ModelOut]
    has_more: bool
