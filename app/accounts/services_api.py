"""JSON: the service accounts of a workspace, and their keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Request

from app.accounts import service, service_accounts
from app.accounts.answers import KeyList, KeyMade, ServiceAccountList, ServiceAccountOut
from app.accounts.api import key_out
from app.accounts.auth import Principal, requires
from app.accounts.schemas import KeyCreate, ServiceAccountChange, ServiceAccountCreate
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/workspaces/{workspace_id}/service-accounts", tags=["accounts"])
Reader = Annotated[Principal, requires("viewer", "members:read")]
Writer = Annotated[Principal, requires("viewer", "members:write")]


@router.get("")
def list_service_accounts(
    workspace_id: str, who: Reader, db: Db, after: After = "", limit: Limit = 100
) -> ServiceAccountList:
    """Programs of the workspace. For its admins."""
    service.administered(db, who, workspace_id)
    found = service_accounts.listed(db, workspace_id)
    rows, more = page(found, after, limit, lambda row: row[0].user_id)
    data = [ServiceAccountOut.of(row, row.user) for row, _ in rows]
    return ServiceAccountList(data=data, has_more=more)


@router.post("", status_code=201)
def create_service_account(
    workspace_id: str, body: ServiceAccountCreate, who: Writer, db: Db
) -> ServiceAccountOut:
    """A program with a role in the workspace. Give it keys of its own."""
    acting = service.administered(db, who, workspace_id)
    made = service_accounts.create(db, acting, **body.model_dump())
    return answer(db, acting, made.id)


def answer(db: Db, acting: Principal, account_id: str) -> ServiceAccountOut:
    user, membership = service_accounts.get(db, acting, account_id)
    return ServiceAccountOut.of(membership, user)


@router.get("/{account_id}")
def get_service_account(
    workspace_id: str, account_id: str, who: Reader, db: Db
) -> ServiceAccountOut:
    """One of them."""
    return answer(db, service.administered(db, who, workspace_id), account_id)


@router.patch("/{account_id}")
def change_service_account(
    workspace_id: str, account_id: str, body: ServiceAccountChange, who: Writer, db: Db
) -> ServiceAccountOut:
    """Its name, its role, or whether it is disabled: while it is, its keys do not work."""
    acting = service.administered(db, who, workspace_id)
    service_accounts.change(db, acting, account_id, body.model_dump(exclude_unset=True))
    return answer(db, acting, account_id)


@router.delete("/{account_id}", status_code=204)
def delete_service_account(workspace_id: str, account_id: str, who: Writer, db: Db) -> None:
    """Its keys stop working for good. What it made stays, under its name."""
    service_accounts.delete(db, service.administered(db, who, workspace_id), account_id)


@router.get("/{account_id}/keys", response_model=KeyList)
def list_service_keys(
    workspace_id: str,
    account_id: str,
    who: Reader,
    db: Db,
    after: After = "",
    limit: Limit = 100,
) -> dict[str, Any]:
    """Its keys, without their secrets."""
    acting = service.administered(db, who, workspace_id)
    user, _ = service_accounts.get(db, acting, account_id)
    rows, more = page(service_accounts.keys_of(db, acting, account_id), after, limit)
    return {"data": [key_out(key, user) for key in rows], "has_more": more}


@router.post("/{account_id}/keys", status_code=201, response_model=KeyMade)
def create_service_key(
    request: Request, workspace_id: str, account_id: str, body: KeyCreate, who: Writer, db: Db
) -> dict[str, Any]:
    """A key of its own. The `secret` is in this answer and nowhere else."""
    request.state.secret = True
    acting = service.administered(db, who, workspace_id)
    key, secret = service_accounts.issue_key(db, acting, account_id, **body.model_dump())
    return key_out(key, service_accounts.get(db, acting, account_id)[0]) | {"secret": secret}


@router.delete("/{account_id}/keys/{service_key_id}", status_code=204)
def revoke_service_key(
    workspace_id: str, account_id: str, service_key_id: str, who: Writer, db: Db
) -> None:
    """The key stops working at once."""
    acting = service.administered(db, who, workspace_id)
    service_accounts.revoke_key(db, acting, account_id, service_key_id)
