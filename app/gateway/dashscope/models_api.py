"""`/dashscope/api/v1/models`, and which of them can be deployed."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from app.accounts.auth import Principal
from app.gateway.dashscope.replies import PREFIX, PageNo, PageSize, paged, reply
from app.gateway.keyed import keyed
from app.models import service as models
from app.models.tables import Model
from app.queue import Db

router = APIRouter(prefix=PREFIX, tags=["dashscope"])
Reader = Annotated[Principal, keyed("viewer", "models:read")]
KINDS = {"base": ("base",), "custom": models.KINDS["tuned"]}  # DashScope's → ours


def source(model: Model) -> str:
    return "base" if model.kind == "base" else "custom"


def out(model: Model) -> dict[str, Any]:
    return {
        "model": model.name,
        "source": source(model),
        "provider": model.architecture or "danlu",
        "opensource": bool(model.licence),
    }


def deployable(model: Model) -> dict[str, Any]:
    return {
        "model_name": model.name,
        "source": source(model),
        "base_capacity": 1,
        "plans": ["lora", "mu"] if model.kind == "adapter" else ["mu"],
    }


@router.get("/models")
def index(
    request: Request,
    who: Reader,
    db: Db,
    page_no: PageNo = 1,
    page_size: PageSize = 10,
    model: Annotated[str, Query(max_length=300)] = "",
) -> dict[str, Any]:
    """The models of the registry: the workspace's own, then those shared by all."""
    found = [one for one in models.visible(db, who.workspace_id) if not model or one.name == model]
    start = (page_no - 1) * page_size
    shown = [out(one) for one in found[start : start + page_size]]
    return reply(request, paged("models", shown, len(found), page_no, page_size))


@router.get("/deployments/models")
def list_deployable(
    request: Request,
    who: Reader,
    db: Db,
    page_no: PageNo = 1,
    page_size: PageSize = 10,
    model_source: Annotated[str, Query(max_length=20)] = "",
) -> dict[str, Any]:
    """Those that can be deployed; `model_source` is base or custom."""
    kinds = KINDS.get(model_source)
    found = [
        one
        for one in models.visible(db, who.workspace_id)
        if not one.scores and (kinds is None or one.kind in kinds)
    ]
    start = (page_no - 1) * page_size
    shown = [deployable(one) for one in found[start : start + page_size]]
    return reply(request, paged("models", shown, len(found), page_no, page_size))
