"""JSON: who I am, and API keys."""

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Request

from app.accounts import keys as api_keys
from app.accounts import limits
from app.accounts.answers import (
    KeyList,
    KeyMade,
    MeOut,
)
from app.accounts.auth import Principal, requires
from app.accounts.schemas import KeyChange, KeyCreate
from app.accounts.tables import ApiKey, User
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1", tags=["accounts"])
Who = Annotated[Principal, requires("viewer", "account")]


def key_out(key: ApiKey, user: User) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "user": {"id": user.id, "email": user.email},
        "created_at": key.created_at,
        "used_at": key.used_at,
        "expires_at": key.expires_at,
        **dataclasses.asdict(limits.of(key)),
    }


@router.get("/me", response_model=MeOut)
def me(who: Who) -> dict[str, Any]:
    """Whom this key or session stands for, and where."""
    return {
        "id": who.user_id,
        "email": who.email,
        "name": who.name,
        "workspace": {"id": who.workspace_id, "name": who.workspace_name},
        "role": who.role,
        "is_platform_admin": who.is_platform_admin,
        "scopes": who.scopes,
    }


@router.get("/keys", response_model=KeyList)
def list_keys(who: Who, db: Db, after: After = "", limit: Limit = 100) -> dict[str, Any]:
    """Your keys of this workspace; an admin sees everybody's. Never their secrets."""
    rows, more = page(api_keys.list_api_keys(db, who), after, limit, lambda row: row[0].id)
    return {"data": [key_out(key, user) for key, user in rows], "has_more": more}


@router.post("/keys", status_code=201, response_model=KeyMade)
def create_key(request: Request, body: KeyCreate, who: Who, db: Db) -> dict[str, Any]:
    """A new key. Its `secret` is in this answer and nowhere else."""
    request.state.secret = True
    key, secret = api_keys.issue_api_key(db, who, **body.model_dump())
    return key_out(key, api_keys.owner(db, key)) | {"secret": secret}


@router.get("/keys/{key_id}")
def get_key(key_id: str, who: Who, db: Db) -> dict[str, Any]:
    """One key and its limits. What is used of them: `/keys/{key_id}/usage`."""
    key = api_keys.get_api_key(db, who, key_id)
    return key_out(key, api_keys.owner(db, key))


@router.patch("/keys/{key_id}")
def change_key(key_id: str, body: KeyChange, who: Who, db: Db) -> dict[str, Any]:
    """Another name, end or other limits. They count within seconds."""
    changes = body.model_dump(exclude_unset=True)
    key = api_keys.change_api_key(db, who, key_id, changes)
    return key_out(key, api_keys.owner(db, key))


@router.delete("/keys/{key_id}", status_code=204)
def revoke_key(key_id: str, who: Who, db: Db) -> None:
    """The key stops working at once."""
    api_keys.revoke_api_key(db, who, key_id)
