"""Who acts in the tests of jobs."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Membership, User, Workspace


def owner(db: Session, workspace: Workspace) -> User:
    found = db.scalar(select(User).join(Membership).where(Membership.workspace_id == workspace.id))
    assert found is not None
    return found


def principal(db: Session, workspace: Workspace) -> Principal:
    user = owner(db, workspace)
    return Principal(
        user_id=user.id,
        email=user.email,
        name=user.name,
        workspace_id=workspace.id,
        workspace_name=workspace.name,
        role="owner",
        is_platform_admin=False,
    )
