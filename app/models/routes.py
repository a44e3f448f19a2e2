"""The model list, a model's page, and what was deleted."""

from typing import Annotated, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.models import imports, plaza, service, trash
from app.models.families import SIZES
from app.models.schemas import Kind, Scope, Sort
from app.queue import Db
from app.web import redirect, render

router = APIRouter(prefix="/models", include_in_schema=False)
PAGE = 24
Reader = Annotated[Principal, requires("viewer", "models:read")]
Writer = Annotated[Principal, requires("member", "models:write")]
VIEWS = ("cards", "table")


@router.get("", name="models:list")
def list_models(
    request: Request,
    who: Reader,
    db: Db,
    kind: str = "",
    q: Annotated[str, Query(max_length=200)] = "",
    family: Annotated[str, Query(max_length=60)] = "",
    size: str = "",
    scope: str = "",
    sort: str = "",
    view: str = "",
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    families = plaza.families(db, who.workspace_id)
    filters = {
        "q": q,
        "kind": kind if kind in get_args(Kind) else "",
        "family": family if family in families else "",
        "size": size if size in SIZES else "",
        "scope": scope if scope in get_args(Scope) else "",
        "sort": sort if sort in get_args(Sort) else "",
    }
    asked = {name: value for name, value in filters.items() if name != "kind"}
    found = service.visible(
        db, who.workspace_id, filters["kind"] or None, **asked, offset=offset, limit=PAGE + 1
    )
    view = view if view in VIEWS else VIEWS[0]
    return render(
        request,
        "models/list.html",
        models=found[:PAGE],
        more=len(found) > PAGE,
        filters=filters,
        filtered=any(value for name, value in filters.items() if name != "sort"),
        query=urlencode({key: value for key, value in filters.items() if value}),
        families=families,
        sizes=SIZES,
        view=view,
        terms=plaza.terms(db, who.workspace_id),
        tariffs=plaza.tariffs(db, who.workspace_id, found[:PAGE]),
        offset=offset,
        size=PAGE,
        coming=[one for one in imports.every(db, who.workspace_id) if one.state == "importing"],
    )


@router.get("/deleted", name="models:deleted")
def deleted(request: Request, who: Reader, db: Db) -> Response:
    found = trash.deleted(db, who.workspace_id)
    return render(request, "models/deleted.html", models=found, grace=trash.grace(db))


@router.get("/{model_id}", name="models:detail")
def detail(request: Request, model_id: str, who: Reader, db: Db) -> Response:
    model = service.get(db, who.workspace_id, model_id)
    return render(
        request,
        "models/detail.html",
        model=model,
        ancestors=service.ancestors(db, who.workspace_id, model),
        children=service.made_from(db, who.workspace_id, model),
        chat_template=service.chat_template(model),
        terms=plaza.terms(db, who.workspace_id),
        tariff=plaza.tariffs(db, who.workspace_id, [model])[model.id],
    )


@router.post("/{model_id}/delete", name="models:delete")
def delete(request: Request, model_id: str, who: Writer, db: Db) -> Response:
    service.delete(db, who.workspace_id, model_id)
    return redirect(request, "models:list")


@router.post("/{model_id}/restore", name="models:restore")
def restore(request: Request, model_id: str, who: Writer, db: Db) -> Response:
    model = trash.restore(db, who.workspace_id, model_id)
    return redirect(request, "models:detail", model_id=model.id)
