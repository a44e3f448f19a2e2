"""Imports of models as JSON: from a hub, a directory of the server, or uploads in pieces."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.models import imports
from app.models.imports import Asked
from app.models.schemas import ImportOut, Imports, import_out
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/models", tags=["models"])
Reader = Annotated[Principal, requires("viewer", "models:read")]
Writer = Annotated[Principal, requires("member", "models:write")]


class Retry(BaseModel):
    """How to try an import again."""

    base: str = Field("", max_length=200, description="Of an adapter: id or name of another base")


@router.post("", status_code=201, name="api:models:import")
def begin(request: Request, body: Asked, who: Writer) -> ImportOut:
    """Import a model in the background: safetensors only, without any code it may bring."""
    return import_out(request, imports.begin(who, body))


@router.get("/imports", name="api:models:imports")
def index(request: Request, who: Reader, db: Db, after: After = "", limit: Limit = 100) -> Imports:
    """The workspace's last imports, the newest first."""
    found, more = page(imports.every(db, who.workspace_id), after, limit)
    return Imports(data=[import_out(request, one) for one in found], has_more=more)


@router.get("/imports/{import_id}", name="api:models:import_detail")
def show(request: Request, import_id: str, who: Reader, db: Db) -> ImportOut:
    """How far it is."""
    return import_out(request, imports.find(db, who.workspace_id, import_id))


@router.post("/imports/{import_id}/cancel", name="api:models:import_cancel")
def cancel(request: Request, import_id: str, who: Writer, db: Db) -> ImportOut:
    """Stop it. 409 if it is over."""
    return import_out(request, imports.cancel(db, who, import_id))


@router.post("/imports/{import_id}/retry", name="api:models:import_retry")
def retry(request: Request, import_id: str, body: Retry, who: Writer, db: Db) -> ImportOut:
    """Try a failed or cancelled import again; what a failed one has fetched is kept for a day."""
    return import_out(request, imports.retry(db, who, import_id, body.base))


@router.delete("/imports/{import_id}", status_code=204, name="api:models:import_hide")
def hide(import_id: str, who: Writer, db: Db) -> None:
    """Take it off the list. 409 while it is on its way: cancel it first."""
    imports.hide(db, who, import_id)
