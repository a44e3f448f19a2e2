"""JSON: workspaces and their members."""

from typing import Annotated

from fastapi import APIRouter, Request

from app.accounts import service, workspaces
from app.accounts.answers import MemberList, MemberMade, MemberOut, WorkspaceList, WorkspaceOut
from app.accounts.auth import Principal, requires
from app.accounts.schemas import (
    MemberChoice,
    MemberCreate,
    RoleChange,
    WorkspaceCreate,
    WorkspaceName,
)
from app.accounts.tables import Membership
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/workspaces", tags=["accounts"])
Reader = Annotated[Principal, requires("viewer", "members:read")]
Writer = Annotated[Principal, requires("viewer", "members:write")]


@router.get("")
def list_workspaces(who: Reader, db: Db, after: After = "", limit: Limit = 100) -> WorkspaceList:
    """Yours, with your role in each. Platform admins see all; `role` is null where they have none."""
    roles = {space.id: role for space, role in service.workspaces_of(db, who.user_id)}
    spaces = [space for space, _ in service.all_workspaces(db)]
    shown = [space for space in spaces if who.is_platform_admin or space.id in roles]
    rows, more = page(shown, after, limit)
    data = [WorkspaceOut.of(space, roles.get(space.id)) for space in rows]
    return WorkspaceList(data=data, has_more=more)


@router.post("", status_code=201)
def create_workspace(body: WorkspaceCreate, who: Writer, db: Db) -> WorkspaceOut:
    """A new workspace of yours. Platform admins may name another owner."""
    made = workspaces.create(db, who, name=body.name, owner=body.owner)
    return answer(db, who, made.id)


def answer(db: Db, who: Principal, workspace_id: str) -> WorkspaceOut:
    mine = db.get(Membership, (workspace_id, who.user_id))
    return WorkspaceOut.of(service.get_workspace(db, workspace_id), mine.role if mine else None)


@router.get("/{workspace_id}")
def get_workspace(workspace_id: str, who: Reader, db: Db) -> WorkspaceOut:
    """One of yours; a key sees its own."""
    return answer(db, who, service.within(db, who, workspace_id).workspace_id)


@router.patch("/{workspace_id}")
def rename_workspace(workspace_id: str, body: WorkspaceName, who: Writer, db: Db) -> WorkspaceOut:
    """Another name. The slug stays as it is."""
    workspaces.rename(db, service.administered(db, who, workspace_id), body.name)
    return answer(db, who, workspace_id)


@router.delete("/{workspace_id}", status_code=204)
def delete_workspace(workspace_id: str, who: Writer, db: Db) -> None:
    """Only an empty one that is nobody's personal one. For its owners."""
    workspaces.delete_empty(db, service.within(db, who, workspace_id))


@router.post("/{workspace_id}/leave", status_code=204)
def leave_workspace(workspace_id: str, who: Writer, db: Db) -> None:
    """Your API keys of it stop working. The last owner cannot."""
    workspaces.leave(db, service.within(db, who, workspace_id))


@router.post("/{workspace_id}/hand-over", status_code=204)
def hand_over_workspace(workspace_id: str, body: MemberChoice, who: Writer, db: Db) -> None:
    """Make another member the owner; you become an admin."""
    workspaces.hand_over(db, service.within(db, who, workspace_id), body.user_id)


# -- members -----------------------------------------------------------------------------


@router.get("/{workspace_id}/members")
def list_members(
    workspace_id: str, who: Reader, db: Db, after: After = "", limit: Limit = 100
) -> MemberList:
    """For admins of the workspace and of the platform."""
    service.administered(db, who, workspace_id)
    rows, more = page(service.members(db, workspace_id), after, limit, lambda row: row.user_id)
    return MemberList(data=[MemberOut.of(row, row.user) for row in rows], has_more=more)


@router.post("/{workspace_id}/members", status_code=201)
def add_member(
    request: Request, workspace_id: str, body: MemberCreate, who: Writer, db: Db
) -> MemberMade:
    """Add somebody by e-mail at once, without an invitation. A new account's `password` is in this
    answer and nowhere else.
    """
    request.state.secret = True
    acting = service.administered(db, who, workspace_id)
    user, password = service.invite(db, acting, workspace_id=workspace_id, **body.model_dump())
    return MemberMade.of(service.membership(db, workspace_id, user.id), user, password=password)


@router.patch("/{workspace_id}/members/{user_id}")
def change_role(
    workspace_id: str, user_id: str, body: RoleChange, who: Writer, db: Db
) -> MemberOut:
    """A workspace keeps at least one owner."""
    acting = service.administered(db, who, workspace_id)
    service.set_role(db, acting, workspace_id=workspace_id, user_id=user_id, role=body.role)
    changed = service.membership(db, workspace_id, user_id)
    return MemberOut.of(changed, service.get_user(db, user_id))


@router.delete("/{workspace_id}/members/{user_id}", status_code=204)
def remove_member(workspace_id: str, user_id: str, who: Writer, db: Db) -> None:
    """Their API keys of this workspace stop working at once."""
    acting = service.administered(db, who, workspace_id)
    service.remove_member(db, acting, workspace_id=workspace_id, user_id=user_id)
