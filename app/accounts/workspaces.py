"""What people do with their workspaces: make, rename, leave, hand over, delete.

`who` acts in the workspace that is meant: see `service.within`.
"""

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import platform, service
from app.accounts.auth import Principal
from app.accounts.tables import Membership, SignIn, User, Workspace
from app.db import Base
from app.errors import N_, Conflict, Forbidden, Invalid

NOUNS = {
    "datasets": N_("datasets"),
    "models": N_("models"),
    "jobs": N_("tuning jobs"),
    "deployments": N_("deployments"),
    "conversations": N_("conversations"),
    "files": N_("files"),
    "uploads": N_("uploads"),
}


# Rows that say how a workspace is treated, not what was done in it: they go with it.
SETTINGS = ("quotas", "fair_shares", "once_requests")


def may_create(db: Session, who: Principal) -> bool:
    return who.is_platform_admin or platform.read(db).people.create_workspaces


def create(db: Session, who: Principal, *, name: str, owner: str = "") -> Workspace:
    """Owned by who asks; a platform admin may name somebody else's address."""
    if not may_create(db, who):
        raise Forbidden(N_("Here only platform admins make workspaces."), code="not_open")
    if owner and owner.strip().lower() != who.email and not who.is_platform_admin:
        raise Forbidden(N_("Only platform admins make workspaces for others."), field="owner")
    user = service.user_by_email(db, owner) if owner else db.get_one(User, who.user_id)
    return service.create_workspace(db, name=name, owner=user)


def rename(db: Session, who: Principal, name: str) -> Workspace:
    """The slug stays: addresses go on working."""
    workspace = service.get_workspace(db, who.workspace_id)
    workspace.name = service.checked_name(name)
    return workspace


def leave(db: Session, who: Principal) -> None:
    """The last owner cannot; nobody leaves their personal one. Raises NotFound for no member."""
    service.membership(db, who.workspace_id, who.user_id)
    service.remove_member(db, who, workspace_id=who.workspace_id, user_id=who.user_id)


def hand_over(db: Session, who: Principal, user_id: str) -> None:
    """Make another member the owner, and oneself an admin."""
    if not who.may("owner"):
        raise Forbidden(N_("Only an owner hands a workspace over."))
    if user_id == who.user_id:
        raise Invalid(N_("Choose somebody else."), field="user_id")
    shared(db, who.workspace_id)
    service.set_role(db, who, workspace_id=who.workspace_id, user_id=user_id, role="owner")
    mine = db.get(Membership, (who.workspace_id, who.user_id))
    if mine:  # a platform admin need not be a member
        mine.role = "admin"
    db.flush()


def delete_empty(db: Session, who: Principal) -> None:
    """Raises Conflict for a personal one, and for one in which something was done: that stays on
    record.
    """
    if not who.may("owner"):
        raise Forbidden(N_("Only an owner deletes a workspace."))
    workspace = shared(db, who.workspace_id)
    programs = db.scalars(
        select(User.id)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.workspace_id == workspace.id, User.is_service)
    ).all()
    try:
        with db.begin_nested():
            move_sign_ins(db, workspace.id)
            for name in ("api_keys", "memberships", *SETTINGS):
                table = Base.metadata.tables[name]
                db.execute(delete(table).where(table.c.workspace_id == workspace.id))
            db.execute(delete(User).where(User.id.in_(programs)))
            db.delete(workspace)
            db.flush()
    except IntegrityError as error:
        diagnosis = getattr(error.orig, "diag", None)
        where = str(getattr(diagnosis, "table_name", ""))
        what = NOUNS.get(where, N_("records of what was done in it"))
        raise Conflict(
            N_("This workspace is not empty: it has %(what)s. Only an empty one can be deleted."),
            code="not_empty",
            what={"message": what, "params": {}},
        ) from None


def shared(db: Session, workspace_id: str) -> Workspace:
    """Raises Conflict for a personal one."""
    workspace = service.get_workspace(db, workspace_id)
    if workspace.personal_of:
        raise Conflict(N_("A personal workspace keeps its person."), code="personal")
    return workspace


def move_sign_ins(db: Session, workspace_id: str) -> None:
    """Browsers that show this workspace show the person's own from now on; who has none anywhere
    is signed out.
    """
    theirs = (
        select(Membership.workspace_id)
        .join(Workspace, Workspace.id == Membership.workspace_id)
        .where(Membership.user_id == SignIn.user_id, Membership.workspace_id != workspace_id)
        .order_by(Workspace.personal_of.is_(None), Membership.created_at)
        .limit(1)
        .scalar_subquery()
    )
    here = SignIn.workspace_id == workspace_id
    db.execute(delete(SignIn).where(here, theirs.is_(None)))
    db.execute(update(SignIn).where(here).values(workspace_id=theirs))
