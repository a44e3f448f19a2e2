"""Service accounts: programs of one workspace, with a role and API keys, without a password or a
sign-in. They outlive the people who made them. To everything else they are members.

`who` acts in the workspace as one who manages it: see `service.administered`.
"""

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, contains_eager

from app.accounts import keys, service
from app.accounts.auth import Principal
from app.accounts.tables import ApiKey, Membership, User
from app.db import new_id, now
from app.errors import N_, Conflict, Forbidden, Invalid, NotFound

ROLES = ("viewer", "member", "admin")  # no program owns a workspace
NEVER = ("account", "admin")  # scopes for people


def listed(db: Session, workspace_id: str) -> list[tuple[Membership, int]]:
    """With `.user`, in the order they came, each with its number of keys that work."""
    working = (
        select(func.count())
        .where(
            ApiKey.user_id == Membership.user_id,
            ApiKey.workspace_id == Membership.workspace_id,
            ApiKey.revoked_at.is_(None),
        )
        .correlate(Membership)
        .scalar_subquery()
    )
    rows = db.execute(
        select(Membership, working)
        .join(Membership.user)
        .options(contains_eager(Membership.user))
        .where(Membership.workspace_id == workspace_id, User.is_service)
        .order_by(Membership.created_at, Membership.user_id)
    )
    return [(membership, count) for membership, count in rows]


def create(db: Session, who: Principal, *, name: str, role: str) -> User:
    """Raises Invalid, and Conflict for a name that another of the workspace has."""
    name = checked(db, who, name)
    if role not in ROLES:
        raise Invalid(N_("There is no role “%(role)s”."), field="role", role=role)
    user_id = new_id("usr")
    user = User(
        id=user_id,
        email=f"{user_id}@service.invalid",  # RFC 2606: nobody's address, ever
        name=name,
        password_hash=None,
        is_service=True,
    )
    db.add(user)
    db.flush()
    service.add_member(db, workspace_id=who.workspace_id, user=user, role=role)
    return user


def checked(db: Session, who: Principal, name: str) -> str:
    name = name.strip()
    if not name:
        raise Invalid(N_("This is needed."), field="name")
    if any(row.user.name == name for row, _ in listed(db, who.workspace_id)):
        raise Conflict(
            N_("There is a service account of this name in this workspace."), field="name"
        )
    return name


def get(db: Session, who: Principal, account_id: str) -> tuple[User, Membership]:
    """Raises NotFound, also for a person."""
    user = db.get(User, account_id)
    row = db.get(Membership, (who.workspace_id, account_id), with_for_update=True)
    if user is None or row is None or not user.is_service:
        raise NotFound(N_("There is no such service account."))
    return user, row


def change(db: Session, who: Principal, account_id: str, changes: dict[str, Any]) -> User:
    """Its name, its role, and `disabled`: while it is, its keys do not work."""
    user, row = get(db, who, account_id)
    if changes.get("name") and changes["name"].strip() != user.name:
        user.name = checked(db, who, changes["name"])
    if changes.get("role"):
        row.role = changes["role"]
    if changes.get("disabled") is not None:
        user.disabled_at = (user.disabled_at or now()) if changes["disabled"] else None
    db.flush()
    return user


def delete(db: Session, who: Principal, account_id: str) -> None:
    """Its keys stop working for good. What it made stays, under its name."""
    user, row = get(db, who, account_id)
    db.execute(
        update(ApiKey)
        .where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now())
    )
    user.disabled_at = user.disabled_at or now()
    db.delete(row)
    db.flush()


# -- keys --------------------------------------------------------------------------------


def scopes_for(who: Principal) -> list[str]:
    """What `who` may put into a key of a service account: of what they may do themselves."""
    return [scope for scope in keys.scopes_for(who) if scope not in NEVER]


def keys_of(db: Session, who: Principal, account_id: str) -> list[ApiKey]:
    """Those not revoked, the newest first."""
    user, _ = get(db, who, account_id)
    query = select(ApiKey).where(
        ApiKey.workspace_id == who.workspace_id,
        ApiKey.user_id == user.id,
        ApiKey.revoked_at.is_(None),
    )
    return list(db.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id)))


def issue_key(
    db: Session, who: Principal, account_id: str, *, name: str, scopes: list[str], **more: Any
) -> tuple[ApiKey, str]:
    """The key and its secret, which is shown once. See `keys.create_api_key`."""
    user, _ = get(db, who, account_id)
    keys.refuse_limited(who)
    refused = [scope for scope in scopes if scope not in scopes_for(who)]
    if refused:
        raise Forbidden(
            N_("A service account cannot have the scope “%(scope)s” from you."),
            field="scopes",
            scope=refused[0],
        )
    return keys.create_api_key(
        db, workspace_id=who.workspace_id, user_id=user.id, name=name, scopes=scopes, **more
    )


def revoke_key(db: Session, who: Principal, account_id: str, key_id: str) -> None:
    for key in keys_of(db, who, account_id):
        if key.id == key_id:
            key.revoked_at = now()
            return
    raise NotFound(N_("There is no such API key."))
