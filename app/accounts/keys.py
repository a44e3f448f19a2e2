"""API keys: 256 random bits, of which a hash is kept."""

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import PLATFORM, SCOPES, Principal, digest
from app.accounts.limits import NO_LIMITS
from app.accounts.tables import ApiKey, User
from app.db import now
from app.errors import N_, Forbidden, Invalid, NotFound


def create_api_key(
    db: Session,
    *,
    workspace_id: str,
    user_id: str,
    name: str,
    scopes: list[str] | tuple[str, ...],
    expires_at: datetime | None = None,
    **limits: Any,
) -> tuple[ApiKey, str]:
    """The key's row and its secret, which is nowhere else and is shown once.

    `limits` are columns, see `accounts.limits`.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise Invalid(N_("There is no scope “%(scope)s”."), field="scopes", scope=unknown[0])
    if not scopes:
        raise Invalid(N_("Choose at least one scope."), field="scopes")
    check_expiry(expires_at)
    secret = "dk-" + secrets.token_urlsafe(32)
    key = ApiKey(
        workspace_id=workspace_id,
        user_id=user_id,
        name=name.strip(),
        prefix=secret[:9],
        secret_hash=digest(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        expires_at=expires_at,
        **limits,
    )
    db.add(key)
    db.flush()
    return key, secret


def check_expiry(expires_at: datetime | None) -> None:
    if expires_at and expires_at <= now():
        raise Invalid(N_("This time has passed."), field="expires_at")


def scopes_for(who: Principal) -> list[str]:
    """What `who` may put into a new key: never more than they may do themselves."""
    return [
        scope for scope in SCOPES if scope in who.scopes and (scope != "admin" or who.may(PLATFORM))
    ]


def usual_scopes(who: Principal) -> list[str]:
    """What the form ticks at first: all but managing people, accounts and the platform."""
    left_out = ("members:read", "members:write", "account", "admin")
    return [scope for scope in scopes_for(who) if scope not in left_out]


def issue_api_key(
    db: Session, who: Principal, *, name: str, scopes: list[str], **more: Any
) -> tuple[ApiKey, str]:
    """A key for `who`, in the workspace in view. See `create_api_key`."""
    refuse_limited(who)
    for scope in scopes:
        if scope in SCOPES and scope not in scopes_for(who):
            raise Forbidden(
                N_("You cannot give the scope “%(scope)s”: you do not have it."),
                field="scopes",
                scope=scope,
            )
    return create_api_key(
        db,
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        name=name,
        scopes=scopes,
        **more,
    )


def refuse_limited(who: Principal) -> None:
    """A key with limits could else give itself a key without."""
    if who.limits != NO_LIMITS:
        raise Forbidden(N_("An API key with limits can neither make nor change API keys."))


def list_api_keys(db: Session, who: Principal) -> list[tuple[ApiKey, User]]:
    """Those that work or have only expired: one's own; an admin sees the workspace's."""
    query = (
        select(ApiKey, User)
        .join(User, User.id == ApiKey.user_id)
        .where(ApiKey.workspace_id == who.workspace_id, ApiKey.revoked_at.is_(None))
        .order_by(ApiKey.created_at.desc(), ApiKey.id)
    )
    if not who.may("admin"):
        query = query.where(ApiKey.user_id == who.user_id)
    return [(key, user) for key, user in db.execute(query)]


def get_api_key(db: Session, who: Principal, key_id: str) -> ApiKey:
    """One's own, or for an admin any of the workspace, unless revoked. Raises NotFound."""
    key = db.get(ApiKey, key_id)
    mine = key is not None and (key.user_id == who.user_id or who.may("admin"))
    if key is None or key.workspace_id != who.workspace_id or not mine or key.revoked_at:
        raise NotFound(N_("There is no such API key."))
    return key


def owner(db: Session, key: ApiKey) -> User:
    """A person or a service account."""
    return db.get_one(User, key.user_id)


def change_api_key(db: Session, who: Principal, key_id: str, changes: dict[str, Any]) -> ApiKey:
    """Change the name, the end or the limits (columns). It counts within seconds."""
    key = get_api_key(db, who, key_id)
    refuse_limited(who)
    check_expiry(changes.get("expires_at"))
    for name, value in changes.items():
        setattr(key, name, value)
    return key


def revoke_api_key(db: Session, who: Principal, key_id: str) -> ApiKey:
    key = get_api_key(db, who, key_id)
    key.revoked_at = now()
    return key
