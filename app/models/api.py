"""`/api/v1/models`: the registry as JSON."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, StreamingResponse

from app.accounts import audit
from app.accounts.auth import Principal, requires
from app.models import download, service, trash
from app.models.schemas import (
    Deleted,
    DeletedModels,
    Kind,
    ModelDetail,
    ModelOut,
    Models,
    Scope,
    Size,
    Sort,
)
from app.models.tables import Model
from app.paging import After, Limit, page
from app.queue import Db, transaction

router = APIRouter(prefix="/api/v1/models", tags=["models"])


def out(model: Model) -> ModelOut:
    return ModelOut.model_validate(model)


@router.get("", name="api:models:list")
def list_models(
    who: Annotated[Principal, requires("viewer", "models:read")],
    db: Db,
    kind: Kind | None = None,
    q: Annotated[str, Query(max_length=200)] = "",
    family: Annotated[str, Query(max_length=60)] = "",
    size: Size | None = None,
    scope: Scope | None = None,
    sort: Sort | None = None,
    after: After = "",
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Models:
    """The workspace's models, newest first, then those shared by all; or as `sort` says."""
    found = service.visible(
        db,
        who.workspace_id,
        kind,
        q=q,
        family=family,
        size=size or "",
        scope=scope or "",
        sort=sort or "",
        after=after,
        offset=offset,
        limit=limit + 1,
    )
    return Models(data=[out(model) for model in found[:limit]], has_more=len(found) > limit)


@router.get("/deleted", name="api:models:deleted")
def list_deleted(
    who: Annotated[Principal, requires("viewer", "models:read")],
    db: Db,
    after: After = "",
    limit: Limit = 100,
) -> DeletedModels:
    """Deleted models that can be restored, the last deleted first; `until` says when their files go."""
    rows, more = page(trash.deleted(db, who.workspace_id), after, limit)
    found = [
        Deleted(**out(one).model_dump(), deleted_at=one.deleted_at, until=trash.until(db, one))
        for one in rows
    ]
    return DeletedModels(data=found, has_more=more)


@router.get("/{model_id}", name="api:models:detail")
def get_model(
    model_id: str, who: Annotated[Principal, requires("viewer", "models:read")], db: Db
) -> ModelDetail:
    """One model, by id or name, with its lineage."""
    return download.about(db, who.workspace_id, service.get(db, who.workspace_id, model_id)).model


@router.delete("/{model_id}", status_code=204, name="api:models:delete")
def delete_model(
    model_id: str, who: Annotated[Principal, requires("member", "models:write")], db: Db
) -> None:
    """Take a model out of the registry. Refused with 409, which names who, while anything uses it.
    Until the platform's days for that are over (7 unless set otherwise) it can be restored.
    """
    service.delete(db, who.workspace_id, model_id)


@router.post("/{model_id}/restore", name="api:models:restore")
def restore_model(
    model_id: str, who: Annotated[Principal, requires("member", "models:write")], db: Db
) -> ModelOut:
    """Bring a deleted model back, by its id. If its name is taken meanwhile, it gets a number."""
    return out(trash.restore(db, who.workspace_id, model_id))


@router.get("/{model_id}/download", name="api:models:download")
def download_model(
    model_id: str, who: Annotated[Principal, requires("viewer", "models:read")]
) -> StreamingResponse:
    """The model's files as one tar: weights or adapter, tokenizer, chat template, card, lineage."""
    with transaction() as db:  # over before the first byte is sent
        model = service.get(db, who.workspace_id, model_id)
        about, artefact = download.about(db, who.workspace_id, model), model.artefact
        audit.note(
            db, "download", "model", model.id, name=model.name, workspace_id=who.workspace_id
        )
    return download.response(about, artefact)


@router.get("/{model_id}/card", name="api:models:card", response_class=PlainTextResponse)
def get_card(
    model_id: str, who: Annotated[Principal, requires("viewer", "models:read")], db: Db
) -> PlainTextResponse:
    """The model card, as Markdown with YAML at its head: where it came from and what was measured."""
    model = service.get(db, who.workspace_id, model_id)
    about = download.about(db, who.workspace_id, model)
    return PlainTextResponse(about.card, media_type="text/markdown; charset=utf-8")
