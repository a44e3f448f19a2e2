"""The model list and a model's page."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.models import service
from app.queue import Db
from app.web import redirect, render

router = APIRouter(prefix="/models", include_in_schema=False)
PAGE = 24


@router.get("", name="models:list")
def list_models(
    request: Request,
    who: Annotated[Principal, requires("viewer", "models:read")],
    db: Db,
    kind: str = "",
    q: Annotated[str, Query(max_length=200)] = "",
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    kind = kind if kind in service.KINDS else ""
    found = service.visible(db, who.workspace_id, kind or None, q=q, offset=offset, limit=PAGE + 1)
    return render(
        request,
        "models/list.html",
        models=found[:PAGE],
        more=len(found) > PAGE,
        kind=kind,
        q=q,
        offset=offset,
        size=PAGE,
    )


@router.get("/{model_id}", name="models:detail")
def detail(
    request: Request,
    model_id: str,
    who: Annotated[Principal, requires("viewer", "models:read")],
    db: Db,
) -> Response:
    model = service.get(db, who.workspace_id, model_id)
    return render(
        request,
        "models/detail.html",
        model=model,
        ancestors=service.ancestors(db, who.workspace_id, model),
        children=service.made_from(db, who.workspace_id, model),
        chat_template=service.chat_template(model),
    )


@router.post("/{model_id}/delete", name="models:delete")
def delete(
    request: Request,
    model_id: str,
    who: Annotated[Principal, requires("member", "models:write")],
    db: Db,
) -> Response:
    service.delete(db, who.workspace_id, model_id)
    return redirect(request, "models:list")
