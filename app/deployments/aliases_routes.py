"""The pages of aliases: the list, and one with its weights and its history."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from app.accounts.auth import Principal
from app.deployments import aliases, view
from app.deployments import service as deployments
from app.deployments.aliases_schemas import WEIGHT, AliasForm, AliasOut
from app.deployments.routes import Reader, Writer
from app.deployments.tables import Alias
from app.errors import DomainError
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/deployments/aliases", include_in_schema=False)
Form = Annotated[Parsed[AliasForm], parsed(AliasForm)]


@router.get("", name="aliases:list")
def list_aliases(request: Request, who: Reader, db: Db) -> Response:
    found = aliases.listed(db, who.workspace_id)
    known = aliases.deployments(db, found)
    return render(
        request,
        "deployments/aliases.html",
        aliases=[AliasOut.of(alias, known) for alias in found],
        address=view.address(),
    )


@router.get("/new", name="aliases:new")
def new(request: Request, who: Writer, db: Db) -> Response:
    return form_page(request, who, db)


@router.post("", name="aliases:create")
def create(request: Request, form: Form, who: Writer, db: Db) -> Response:
    return save(request, form, who, db, None)


@router.get("/{alias_id}", name="aliases:detail")
def detail(request: Request, alias_id: str, who: Reader, db: Db) -> Response:
    return form_page(request, who, db, alias=aliases.get(db, who.workspace_id, alias_id))


@router.post("/{alias_id}", name="aliases:change")
def change(request: Request, alias_id: str, form: Form, who: Writer, db: Db) -> Response:
    return save(request, form, who, db, aliases.get(db, who.workspace_id, alias_id))


@router.post("/{alias_id}/delete", name="aliases:delete")
def delete(request: Request, alias_id: str, who: Writer, db: Db) -> Response:
    aliases.remove(db, who, alias_id)
    return redirect(request, "aliases:list")


def save(
    request: Request, form: Parsed[AliasForm], who: Principal, db: Db, alias: Alias | None
) -> Response:
    if form.data:
        if alias:
            form.data.name = alias.name
        try:
            saved = aliases.save(db, who, form.data, new=alias is None)
            return redirect(request, "aliases:detail", alias_id=saved.id)
        except DomainError as error:
            db.rollback()
            form.refuse(error)
    return form_page(request, who, db, alias=alias, form=form)


def form_page(
    request: Request,
    who: Principal,
    db: Db,
    *,
    alias: Alias | None = None,
    form: Parsed[AliasForm] | None = None,
) -> Response:
    weights: dict[str, Any] = {}
    if form:
        weights = {name.removeprefix(WEIGHT): value for name, value in form.values.items()}
    elif alias:
        weights = {one["deployment"]: one["weight"] for one in alias.targets}
    found, _ = deployments.list_deployments(db, who.workspace_id, limit=1000)
    return render(
        request,
        "deployments/alias.html",
        status=422 if form else 200,
        alias=alias,
        form=form,
        wrong=next((text for at, text in form.errors.items() if at[:7] == "targets"), "")
        if form
        else "",
        deployments=sorted(found, key=lambda one: one.id not in weights),
        weights=weights,
        prefix=WEIGHT,
        history=aliases.history(db, alias, view.speaker(request)) if alias else [],
        address=view.address(),
    )
