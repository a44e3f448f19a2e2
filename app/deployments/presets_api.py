"""`/api/v1/presets`: the well-known open models, and what each needs."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.deployments import needs
from app.models import imports, presets
from app.queue import Db

router = APIRouter(prefix="/api/v1/presets", tags=["models"])


class PresetOut(BaseModel):
    """Bytes are estimates, on one GPU, with the defaults of jobs and deployments."""

    id: str
    name: str
    family: str
    licence: str
    huggingface: str = Field(description="Repository")
    modelscope: str
    parameters: int
    context_length: int = Field(description="Tokens")
    training: dict[str, int] = Field(description="Method → bytes")
    training_length: int = Field(description="Tokens of the longest row")
    serving: int = Field(description="Bytes")
    serving_length: int = Field(description="Tokens of context")
    model_id: str | None = Field(description="Of the newest model here that came from it")


class Presets(BaseModel):
    """Well-known open models."""

    data: list[PresetOut]
    has_more: bool


@router.get("", name="api:presets")
def index(
    who: Annotated[Principal, requires("viewer", "models:read")], db: Db, family: str = ""
) -> Presets:
    """Import one with `POST /api/v1/models {preset}`."""
    here = imports.by_repository(db, who.workspace_id)
    data = []
    for one in presets.every():
        if family not in ("", one.family):
            continue
        need = needs.needs(db, one)
        data.append(
            PresetOut(
                id=one.id,
                name=one.name,
                family=one.family,
                licence=one.licence,
                huggingface=one.huggingface,
                modelscope=one.modelscope,
                parameters=one.parameters,
                context_length=one.context_length,
                training=need.training,
                training_length=need.length,
                serving=need.serving.total,
                serving_length=need.context,
                model_id=here.get(one.huggingface) or here.get(one.modelscope),
            )
        )
    return Presets(data=data, has_more=False)
