"""What `/api/v1/models` answers, and the filters of the model list."""

from datetime import datetime
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from app.models import imports
from app.models.tables import ModelImport
from app.web import said

Kind = Literal["base", "tuned", "adapter", "merged", "imported"]
Size = Literal["tiny", "small", "medium", "large", "huge"]
Scope = Literal["mine", "shared"]
Sort = Literal["newest", "name", "size"]


class ModelOut(BaseModel):
    """A model of the registry. `parameters` counts numbers, `size` bytes, `context_length` tokens."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    kind: str  # base, adapter or merged
    shared: bool  # belongs to the platform; every workspace sees it
    imported: bool = False
    family: str = ""  # Qwen3, Llama … or what config.json calls the architecture
    architecture: str
    templated: bool | None = None  # has a chat template; None: not looked at yet
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
    """Models of the registry."""

    data: list[ModelOut]
    has_more: bool


class Deleted(ModelOut):
    """A deleted model that can still be restored."""

    deleted_at: datetime
    until: datetime = Field(description="When its files go, and it cannot be restored any more")


class DeletedModels(BaseModel):
    """Deleted models, the last deleted first."""

    data: list[Deleted]
    has_more: bool


class Failure(BaseModel):
    """Why it failed: a stable code, and a sentence."""

    code: str
    message: str


class ImportOut(BaseModel):
    """A model on its way in. Bytes are of all files together."""

    id: str
    name: str
    state: str = Field(description="importing, succeeded, failed or cancelled")
    source: dict[str, Any] = Field(
        description="from (huggingface, modelscope, directory, upload), repository, revision, path"
    )
    shared: bool
    commit: str = Field(description="What the revision was when the import began")
    received: int
    total: int | None
    file: str = Field(description="The one that is fetched now")
    number: int = Field(description="Which one it is, from 1")
    files: int
    left_out: list[str] = Field(description="Files that are not taken")
    waits: str = Field(description="Why it waits before it tries again; empty if it does not")
    error: Failure | None
    model_id: str | None
    created_at: datetime
    finished_at: datetime | None


class Imports(BaseModel):
    """Imports of models, the newest first."""

    data: list[ImportOut]
    has_more: bool


def import_out(request: Request, one: ModelImport) -> ImportOut:
    how = imports.progress(one)
    waits = how.pop("waits")
    failed = {"code": one.error["code"], "message": said(request, one.error)} if one.error else None
    return ImportOut(
        id=one.id,
        name=one.name,
        state=one.state,
        source=one.source,
        shared=one.shared,
        commit=one.cursor.get("commit", ""),
        left_out=one.cursor.get("left_out", []),
        waits=said(request, waits) if waits else "",
        error=Failure(**failed) if failed else None,
        model_id=one.model_id,
        created_at=one.created_at,
        finished_at=one.finished_at,
        **how,
    )
