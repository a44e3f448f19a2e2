"""Pages: the service accounts of a workspace, and their keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from app.accounts import service, service_accounts
from app.accounts.auth import Principal, requires
from app.accounts.schemas import KeyForm, ServiceAccountChange, ServiceAccountCreate
from app.errors import DomainError
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/workspaces/{workspace_id}/service-accounts", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "members:read")]
Writer = Annotated[Principal, requires("viewer", "members:write")]


def list_page(request: Request, db: Db, acting: Principal, form: Any = None) -> Response:
    return render(
        request,
        "accounts/services.html",
        acting=acting,
        workspace=service.get_workspace(db, acting.workspace_id),
        rows=service_accounts.listed(db, acting.workspace_id),
        form=form,
        status=422 if form else 200,
    )


@router.get("", name="services:list")
def index(request: Request, workspace_id: str, who: Reader, db: Db) -> Response:
    return list_page(request, db, service.administered(db, who, workspace_id))


@router.post("", name="services:create")
def create(
    request: Request,
    workspace_id: str,
    who: Writer,
    form: Annotated[Parsed[ServiceAccountCreate], parsed(ServiceAccountCreate)],
    db: Db,
) -> Response:
    acting = service.administered(db, who, workspace_id)
    if form.data is None:
        return list_page(request, db, acting, form)
    try:
        made = service_accounts.create(db, acting, **form.data.model_dump())
    except DomainError as error:
        form.refuse(error)
        return list_page(request, db, acting, form)
    return redirect(request, "services:show", workspace_id=workspace_id, account_id=made.id)


def account_page(
    request: Request,
    db: Db,
    acting: Principal,
    account_id: str,
    *,
    form: Any = None,
    key_form: Any = None,
    secret: str | None = None,
) -> Response:
    account, membership = service_accounts.get(db, acting, account_id)
    return render(
        request,
        "accounts/service.html",
        acting=acting,
        workspace=service.get_workspace(db, acting.workspace_id),
        account=account,
        membership=membership,
        keys=service_accounts.keys_of(db, acting, account_id),
        scopes=service_accounts.scopes_for(acting),
        form=form,
        key_form=key_form,
        secret=secret,
        status=422 if form or key_form else 200,
    )


@router.get("/{account_id}", name="services:show")
def show(request: Request, workspace_id: str, account_id: str, who: Reader, db: Db) -> Response:
    return account_page(request, db, service.administered(db, who, workspace_id), account_id)


@router.post("/{account_id}", name="services:change")
def change(
    request: Request,
    workspace_id: str,
    account_id: str,
    who: Writer,
    form: Annotated[Parsed[ServiceAccountChange], parsed(ServiceAccountChange)],
    db: Db,
) -> Response:
    acting = service.administered(db, who, workspace_id)
    if form.data is None:
        return account_page(request, db, acting, account_id, form=form)
    try:
        service_accounts.change(db, acting, account_id, form.data.model_dump(exclude_unset=True))
    except DomainError as error:
        form.refuse(error)
        return account_page(request, db, acting, account_id, form=form)
    return redirect(request, "services:show", workspace_id=workspace_id, account_id=account_id)


@router.post("/{account_id}/delete", name="services:delete")
def delete(request: Request, workspace_id: str, account_id: str, who: Writer, db: Db) -> Response:
    service_accounts.delete(db, service.administered(db, who, workspace_id), account_id)
    return redirect(request, "services:list", workspace_id=workspace_id)


@router.post("/{account_id}/keys", name="services:create_key")
def create_key(
    request: Request,
    workspace_id: str,
    account_id: str,
    who: Writer,
    form: Annotated[Parsed[KeyForm], parsed(KeyForm)],
    db: Db,
) -> Response:
    """Answers with the page itself: the secret is in this one answer only."""
    acting = service.administered(db, who, workspace_id)
    if form.data is None:
        return account_page(request, db, acting, account_id, key_form=form)
    try:
        _, secret = service_accounts.issue_key(db, acting, account_id, **form.data.made())
    except DomainError as error:
        form.refuse(error)
        return account_page(request, db, acting, account_id, key_form=form)
    return account_page(request, db, acting, account_id, secret=secret)


@router.post("/{account_id}/keys/{service_key_id}/revoke", name="services:revoke_key")
def revoke_key(
    request: Request,
    workspace_id: str,
    account_id: str,
    service_key_id: str,
    who: Writer,
    db: Db,
) -> Response:
    acting = service.administered(db, who, workspace_id)
    service_accounts.revoke_key(db, acting, account_id, service_key_id)
    return redirect(request, "services:show", workspace_id=workspace_id, account_id=account_id)
