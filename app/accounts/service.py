"""Users, workspaces and members. Keys are in `.keys`, sign-ins in `.signin`."""

import re
import secrets
import unicodedata
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session, contains_eager

from app.accounts import auth, keys
from app.accounts.auth import ROLES, SCOPES, Principal
from app.accounts.passwords import hash_password
from app.accounts.tables import ApiKey, Invitation, Membership, SignIn, User, Workspace
from app.db import now
from app.errors import N_, Conflict, Forbidden, Invalid, NotFound

# the names other domains use
principal_of_key = auth.principal_of_key
create_api_key = keys.create_api_key
EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}\Z")


# -- users -------------------------------------------------------------------------------


def address(email: str) -> str:
    """As it is kept. Raises Invalid for what is none."""
    email = email.strip().lower()
    if not EMAIL.match(email) or not email.isprintable():
        raise Invalid(N_("This is not an e-mail address."), field="email")
    return email


def create_user(
    db: Session,
    *,
    email: str,
    name: str,
    password: str | None,
    is_platform_admin: bool = False,
) -> User:
    """With a workspace of their own. No password: they sign in elsewhere, by single sign-on.

    Raises Invalid (bad address, weak password) and Conflict (address taken).
    """
    email = address(email)
    password_hash = hash_password(password) if password is not None else None
    one_at_a_time(db, "users")
    if db.scalar(select(User.id).where(User.email == email)):
        raise Conflict(N_("There is already an account with this address."), field="email")
    user = User(
        email=email,
        name=name.strip() or email.split("@")[0],
        password_hash=password_hash,
        is_platform_admin=is_platform_admin,
    )
    db.add(user)
    db.flush()
    create_workspace(db, name=user.name, owner=user, personal=True)
    return user


def one_at_a_time(db: Session, what: str) -> None:
    """Until the end of the transaction nobody else makes one, so that names stay unique."""
    db.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"danlu.{what}"))))


def list_users(db: Session) -> list[User]:
    """People: no service accounts."""
    query = select(User).where(User.is_service.is_(False))
    return list(db.scalars(query.order_by(User.created_at, User.id)))


def get_user(db: Session, user_id: str) -> User:
    """A person. Raises NotFound."""
    user = db.get(User, user_id)
    if user is None or user.is_service:
        raise NotFound(N_("There is no such user."))
    return user


def user_by_email(db: Session, email: str) -> User:
    """Raises Invalid on the field `owner`, where an address is typed in."""
    user = db.scalar(select(User).where(User.email == email.strip().lower()))
    if user is None:
        raise Invalid(N_("Nobody here has the address %(email)s."), field="owner", email=email)
    return user


def disable_user(db: Session, who: Principal, user_id: str, disabled: bool = True) -> User:
    """A disabled user's sign-ins end and their keys stop working. Nobody disables themselves."""
    user = get_user(db, user_id)
    if user.id == who.user_id:
        raise Conflict(N_("You cannot disable your own account."))
    user.disabled_at = now() if disabled else None
    if disabled:
        end_sign_ins(db, user.id)
        withdraw(db, Invitation.invited_by == user.id)
    return user


def end_sign_ins(db: Session, user_id: str) -> None:
    db.execute(
        update(SignIn)
        .where(SignIn.user_id == user_id, SignIn.revoked_at.is_(None))
        .values(revoked_at=now())
    )


def withdraw(db: Session, *which: ColumnElement[bool]) -> None:
    """Revoke the invitations that are open and match."""
    still_open = (Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None))
    for row in db.scalars(select(Invitation).where(*still_open, *which)):
        row.revoked_at = now()


# -- workspaces --------------------------------------------------------------------------


def slug_of(db: Session, name: str) -> str:
    """A short ASCII name for addresses, unique: `team-a`, `team-a-2`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40] or "workspace"
    one_at_a_time(db, "slugs")
    taken = set(db.scalars(select(Workspace.slug).where(Workspace.slug.like(f"{base}%"))))
    number, slug = 1, base
    while slug in taken:
        number += 1
        slug = f"{base}-{number}"
    return slug


def create_workspace(db: Session, *, name: str, owner: User, personal: bool = False) -> Workspace:
    """A personal one takes its slug from the owner's address."""
    name = checked_name(name)
    slug = slug_of(db, owner.email.split("@")[0] if personal else name)
    workspace = Workspace(name=name, slug=slug, personal_of=owner.id if personal else None)
    db.add(workspace)
    db.flush()
    db.add(Membership(workspace_id=workspace.id, user_id=owner.id, role="owner"))
    db.flush()
    return workspace


def checked_name(name: str) -> str:
    if not name.strip():
        raise Invalid(N_("A workspace needs a name."), field="name")
    return name.strip()


def get_workspace(db: Session, workspace_id: str) -> Workspace:
    workspace = db.get(Workspace, workspace_id)
    if workspace is None:
        raise NotFound(N_("There is no such workspace."))
    return workspace


def all_workspaces(db: Session) -> list[tuple[Workspace, int]]:
    """Every workspace with its number of members, for platform admins."""
    members = (
        select(func.count())
        .where(Membership.workspace_id == Workspace.id)
        .correlate(Workspace)
        .scalar_subquery()
    )
    rows = db.execute(select(Workspace, members).order_by(Workspace.name))
    return [(workspace, count) for workspace, count in rows]


def workspaces_of(db: Session, user_id: str) -> list[tuple[Workspace, str]]:
    """The user's workspaces, each with their role in it."""
    rows = db.execute(
        select(Workspace, Membership.role)
        .join(Membership, Membership.workspace_id == Workspace.id)
        .where(Membership.user_id == user_id)
        .order_by(Workspace.name)
    )
    return [(workspace, role) for workspace, role in rows]


def within(db: Session, who: Principal, workspace_id: str) -> Principal:
    """`who` as they act in that workspace: one of their own, whichever is in view.

    Platform admins act in every workspace's settings as its owner. A key acts in its own only.
    Raises NotFound.
    """
    if workspace_id == who.workspace_id and not who.is_platform_admin:
        return who
    member = None if who.api_key_id else db.get(Membership, (workspace_id, who.user_id))
    if member is None and not who.is_platform_admin:
        raise NotFound(N_("There is no such workspace."))
    workspace = get_workspace(db, workspace_id)
    role = "owner" if who.is_platform_admin or member is None else member.role
    return replace(who, workspace_id=workspace.id, workspace_name=workspace.name, role=role)


def administered(db: Session, who: Principal, workspace_id: str) -> Principal:
    """`who` as they act in that workspace, which they manage: its admins and owners do, and the
    platform's admins. Raises NotFound, Forbidden.
    """
    acting = within(db, who, workspace_id)
    if not acting.may("admin"):
        raise Forbidden(N_("Only admins and owners of a workspace manage its members."))
    return acting


def roles_for(who: Principal) -> list[str]:
    """The roles that `who` may give."""
    return [role for role in ROLES if role != "owner" or who.may("owner")]


# -- members -----------------------------------------------------------------------------


def members(db: Session, workspace_id: str) -> list[Membership]:
    """People, with `.user` loaded, in the order they came."""
    return list(
        db.scalars(
            select(Membership)
            .join(Membership.user)
            .options(contains_eager(Membership.user))
            .where(Membership.workspace_id == workspace_id, User.is_service.is_(False))
            .order_by(Membership.created_at, Membership.user_id)
        )
    )


def membership(db: Session, workspace_id: str, user_id: str) -> Membership:
    row = db.get(Membership, (workspace_id, user_id))
    if row is None or db.get_one(User, user_id).is_service:
        raise NotFound(N_("There is no such member."))
    return row


def check_role(who: Principal | None, role: str) -> None:
    """Owners are made by owners (and by the platform) only."""
    if role not in ROLES:
        raise Invalid(N_("There is no role “%(role)s”."), field="role", role=role)
    if who and role == "owner" and not who.may("owner"):
        raise Forbidden(N_("Only an owner can make somebody an owner."))


def add_member(
    db: Session,
    *,
    workspace_id: str,
    user: User,
    role: str,
    who: Principal | None = None,
) -> Membership:
    check_role(who, role)
    if db.get(Membership, (workspace_id, user.id)):
        raise Conflict(
            N_("%(email)s is already a member of this workspace."),
            field="email",
            email=user.email,
        )
    row = Membership(workspace_id=workspace_id, user_id=user.id, role=role)
    db.add(row)
    db.flush()
    return row


def invite(
    db: Session,
    who: Principal | None,
    *,
    workspace_id: str,
    email: str,
    name: str,
    role: str,
) -> tuple[User, str | None]:
    """Add somebody by address: who has no account gets one, with a password to hand over.

    The password is None for people who already had an account.
    """
    check_role(who, role)
    user = db.scalar(select(User).where(User.email == email.strip().lower()))
    password = None
    if user is None:
        password = secrets.token_urlsafe(12)
        user = create_user(db, email=email, name=name, password=password)
    add_member(db, workspace_id=workspace_id, user=user, role=role, who=who)
    return user, password


def open_account(
    db: Session,
    who: Principal,
    *,
    email: str,
    name: str,
    workspace_id: str,
    role: str,
    is_platform_admin: bool,
) -> tuple[User, str]:
    """A new account in a workspace, with a password to hand over."""
    who = within(db, who, workspace_id)
    password = secrets.token_urlsafe(12)
    user = create_user(
        db, email=email, name=name, password=password, is_platform_admin=is_platform_admin
    )
    add_member(db, workspace_id=workspace_id, user=user, role=role, who=who)
    return user, password


def membership_to_change(
    db: Session, who: Principal, workspace_id: str, user_id: str
) -> Membership:
    """The row, locked with all owners' rows, so that two admins cannot remove the last two."""
    owners = db.scalars(
        select(Membership)
        .where(Membership.workspace_id == workspace_id, Membership.role == "owner")
        .order_by(Membership.user_id)
        .with_for_update()
    ).all()
    row = membership(db, workspace_id, user_id)
    db.refresh(row, with_for_update=True)
    if get_workspace(db, workspace_id).personal_of == user_id:
        raise Conflict(N_("A personal workspace keeps its person."), code="personal")
    if row.role == "owner":
        if not who.may("owner"):
            raise Forbidden(N_("Only an owner can change an owner."))
        if len(owners) == 1:
            raise Conflict(
                N_("A workspace keeps at least one owner. Make somebody else an owner first."),
                code="last_owner",
            )
    return row


def set_role(db: Session, who: Principal, *, workspace_id: str, user_id: str, role: str) -> None:
    check_role(who, role)
    if membership(db, workspace_id, user_id).role == role:
        return
    membership_to_change(db, who, workspace_id, user_id).role = role
    db.flush()


def remove_member(db: Session, who: Principal, *, workspace_id: str, user_id: str) -> None:
    """Their API keys of this workspace stop working, and their invitations to it, with the
    membership.
    """
    db.delete(membership_to_change(db, who, workspace_id, user_id))
    keys_of = select(ApiKey).where(
        ApiKey.workspace_id == workspace_id,
        ApiKey.user_id == user_id,
        ApiKey.revoked_at.is_(None),
    )
    for key in db.scalars(keys_of):
        key.revoked_at = now()
    withdraw(db, Invitation.workspace_id == workspace_id, Invitation.invited_by == user_id)
    db.flush()


# -- the first run -----------------------------------------------------------------------


def bootstrap(db: Session) -> dict[str, Any] | None:
    """On an empty database: the platform admin, a workspace and a key that may do everything.

    Returns {email, password, api_key, workspace}; None when there are users already.
    """
    one_at_a_time(db, "bootstrap")
    if db.scalar(select(func.count()).select_from(User)):
        return None
    password = secrets.token_urlsafe(12)
    admin = create_user(
        db,
        email="admin@danlu.local",
        name="Admin",
        password=password,
        is_platform_admin=True,
    )
    workspace = create_workspace(db, name="default", owner=admin)
    _, secret = create_api_key(
        db, workspace_id=workspace.id, user_id=admin.id, name="first run", scopes=SCOPES
    )
    return {
        "email": admin.email,
        "password": password,
        "api_key": secret,
        "workspace": workspace.id,
    }
