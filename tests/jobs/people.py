"""Who acts in the tests of jobs."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Membership, User, Workspace
from tests.factories import make_principal


def owner(db: Session, workspace: Workspace) -> User:
    found = db.scalar(select(User).join(Membership).where(Membership.workspace_id == workspace.id))
    assert found is not None
    return found


def principal(db: Session, workspace: Workspace) -> Principal:
    return make_principal(owner(db, workspace), workspace)
