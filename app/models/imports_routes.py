"""The pages of imports: the ways in, the presets, and what is on its way."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import BaseModel

from app.accounts import user_secrets
from app.accounts.auth import Principal, requires
from app.errors import DomainError
from app.models import imports, presets, service, sources
from app.models.imports import Asked
from app.models.schemas import import_out
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/models", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "models:read")]
Writer = Annotated[Principal, requires("member", "models:write")]
WAYS = ("hub", "directory", "upload")


class Import(BaseModel):
    """The form of the ways in."""

    way: str = "hub"
    name: str = ""
    preset: str = ""
    hub: str = ""
    repository: str = ""
    revision: str = ""
    secret: str = ""
    path: str = ""
    base: str = ""
    shared: bool = False


@router.get("/new", name="models:new")
def new(
    request: Request,
    who: Writer,
    db: Db,
    way: str = "hub",
    hub: str = "",
    repository: Annotated[str, Query(max_length=400)] = "",
) -> Response:
    values = {"hub": hub, "repository": repository} if repository else {}
    return form_page(request, who, db, way, Parsed(request, values) if values else None)


@router.post("/import", name="models:import")
def begin(
    request: Request, who: Writer, db: Db, form: Annotated[Parsed[Import], parsed(Import)]
) -> Response:
    asked = form.data or Import()
    try:
        imports.begin(who, Asked.model_validate(asked.model_dump(exclude={"way"})))
    except DomainError as error:
        form.refuse(error)
        return form_page(request, who, db, asked.way, form, status=error.status)
    return redirect(request, "models:imports")


def form_page(
    request: Request,
    who: Principal,
    db: Db,
    way: str,
    form: Parsed[Any] | None,
    status: int = 200,
) -> Response:
    whole = [one for one in service.visible(db, who.workspace_id) if one.kind != "adapter"]
    return render(
        request,
        "models/new.html",
        status=status,
        form=form,
        way=way if way in WAYS else WAYS[0],
        bases=whole,
        roots=sources.roots(),
        secrets=user_secrets.every(db, who, *sources.HUBS),
    )


@router.get("/presets", name="models:presets")
def show_presets(
    request: Request, who: Reader, db: Db, family: Annotated[str, Query(max_length=60)] = ""
) -> Response:
    """The well-known open models; what each needs comes by its own address."""
    found = [one for one in presets.every() if family in ("", one.family)]
    return render(
        request,
        "models/presets.html",
        presets=found,
        families=presets.families(),
        family=family,
        here_already=imports.by_repository(db, who.workspace_id),
    )


# -- what is on its way --------------------------------------------------------------------


@router.get("/imports", name="models:imports")
def index(request: Request, who: Reader, db: Db) -> Response:
    return listing(request, who, db)


@router.get("/imports/rows", name="models:import_rows")
def rows(request: Request, who: Reader, db: Db) -> Response:
    """The table alone; it asks for itself while something moves."""
    return listing(request, who, db, block="rows")


def listing(request: Request, who: Principal, db: Db, block: str | None = None) -> Response:
    found = [import_out(request, one) for one in imports.every(db, who.workspace_id)]
    return render(
        request,
        "models/imports.html",
        block=block,
        imports=found,
        moving=any(one.state == "importing" for one in found),
    )


@router.post("/imports/{import_id}/cancel", name="models:import_cancel")
def cancel(request: Request, import_id: str, who: Writer, db: Db) -> Response:
    imports.cancel(db, who, import_id)
    return redirect(request, "models:imports")


@router.post("/imports/{import_id}/retry", name="models:import_retry")
def retry(
    request: Request, import_id: str, who: Writer, db: Db, base: Annotated[str, Form()] = ""
) -> Response:
    imports.retry(db, who, import_id, base)
    return redirect(request, "models:imports")


@router.post("/imports/{import_id}/hide", name="models:import_hide")
def hide(request: Request, import_id: str, who: Writer, db: Db) -> Response:
    imports.hide(db, who, import_id)
    return redirect(request, "models:imports")
