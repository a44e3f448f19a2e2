"""Pages of a workspace: its settings, its members, who is invited."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from app.accounts import invitations, letters, service, workspaces
from app.accounts.auth import Principal, requires
from app.accounts.routes import link
from app.accounts.schemas import InvitationCreate, MemberChoice, RoleChange, WorkspaceName
from app.accounts.tables import Invitation
from app.errors import DomainError
from app.queue import Db
from app.web import Parsed, language_of, parsed, redirect, render

router = APIRouter(prefix="/workspaces", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "members:read")]
Writer = Annotated[Principal, requires("viewer", "members:write")]


# -- a workspace -------------------------------------------------------------------------


def new_page(request: Request, db: Db, who: Principal, form: Any = None) -> Response:
    may = workspaces.may_create(db, who)
    status = 422 if form else 200
    return render(request, "accounts/new_workspace.html", may=may, form=form, status=status)


@router.get("/new", name="workspaces:new")
def new(request: Request, who: Reader, db: Db) -> Response:
    return new_page(request, db, who)


@router.post("", name="workspaces:create")
def create(
    request: Request,
    who: Writer,
    form: Annotated[Parsed[WorkspaceName], parsed(WorkspaceName)],
    db: Db,
) -> Response:
    if form.data is None:
        return new_page(request, db, who, form)
    made = workspaces.create(db, who, name=form.data.name)
    return redirect(request, "workspaces:settings", workspace_id=made.id)


def settings_page(
    request: Request, db: Db, acting: Principal, form: Any = None, handing: Any = None
) -> Response:
    people = service.members(db, acting.workspace_id)
    return render(
        request,
        "accounts/workspace.html",
        acting=acting,
        workspace=service.get_workspace(db, acting.workspace_id),
        member=next((one for one in people if one.user_id == acting.user_id), None),
        others=[one for one in people if one.user_id != acting.user_id],
        form=form,
        handing=handing,
        status=422 if form or handing else 200,
    )


@router.get("/{workspace_id}/settings", name="workspaces:settings")
def settings(request: Request, workspace_id: str, who: Reader, db: Db) -> Response:
    return settings_page(request, db, service.within(db, who, workspace_id))


@router.post("/{workspace_id}/settings", name="workspaces:rename")
def rename(
    request: Request,
    workspace_id: str,
    who: Writer,
    form: Annotated[Parsed[WorkspaceName], parsed(WorkspaceName)],
    db: Db,
) -> Response:
    acting = service.administered(db, who, workspace_id)
    if form.data is None:
        return settings_page(request, db, acting, form)
    workspaces.rename(db, acting, form.data.name)
    return redirect(request, "workspaces:settings", workspace_id=workspace_id)


@router.post("/{workspace_id}/hand-over", name="workspaces:hand_over")
def hand_over(
    request: Request,
    workspace_id: str,
    who: Writer,
    form: Annotated[Parsed[MemberChoice], parsed(MemberChoice)],
    db: Db,
) -> Response:
    acting = service.within(db, who, workspace_id)
    try:
        workspaces.hand_over(db, acting, str(form.values.get("user_id", "")))
    except DomainError as error:
        if acting.role != "owner":
            raise
        form.refuse(error)
        return settings_page(request, db, acting, handing=form)
    return redirect(request, "workspaces:settings", workspace_id=workspace_id)


@router.post("/{workspace_id}/leave", name="workspaces:leave")
def leave(request: Request, workspace_id: str, who: Writer, db: Db) -> Response:
    workspaces.leave(db, service.within(db, who, workspace_id))
    return redirect(request, "/")


@router.post("/{workspace_id}/delete", name="workspaces:delete")
def delete(request: Request, workspace_id: str, who: Writer, db: Db) -> Response:
    workspaces.delete_empty(db, service.within(db, who, workspace_id))
    return redirect(request, "/")


# -- members -----------------------------------------------------------------------------


def members_page(
    request: Request, db: Db, acting: Principal, form: Any = None, invited: Any = None
) -> Response:
    return render(
        request,
        "accounts/members.html",
        acting=acting,
        workspace=service.get_workspace(db, acting.workspace_id),
        members=service.members(db, acting.workspace_id),
        invitations=invitations.pending(db, acting.workspace_id),
        roles=service.roles_for(acting),
        form=form,
        invited=invited,
        status=422 if form else 200,
    )


@router.get("/{workspace_id}/members", name="accounts:members")
def members(request: Request, workspace_id: str, who: Reader, db: Db) -> Response:
    return members_page(request, db, service.administered(db, who, workspace_id))


@router.post("/{workspace_id}/members/{user_id}/role", name="accounts:set_role")
def set_role(
    request: Request,
    workspace_id: str,
    user_id: str,
    who: Writer,
    form: Annotated[Parsed[RoleChange], parsed(RoleChange)],
    db: Db,
) -> Response:
    acting = service.administered(db, who, workspace_id)
    role = str(form.values.get("role", ""))
    service.set_role(db, acting, workspace_id=workspace_id, user_id=user_id, role=role)
    return redirect(request, "accounts:members", workspace_id=workspace_id)


@router.post("/{workspace_id}/members/{user_id}/remove", name="accounts:remove_member")
def remove_member(
    request: Request, workspace_id: str, user_id: str, who: Writer, db: Db
) -> Response:
    acting = service.administered(db, who, workspace_id)
    service.remove_member(db, acting, workspace_id=workspace_id, user_id=user_id)
    return redirect(request, "accounts:members", workspace_id=workspace_id)


# -- invitations -------------------------------------------------------------------------


def handed(
    request: Request, db: Db, who: Principal, row: Invitation, token: str
) -> tuple[Invitation, str, bool]:
    """The invitation, its link, and whether it is mailed."""
    url = link(request, "invitations:show", token=token)
    return row, url, letters.invitation(db, who, row, url, language_of(request))


@router.post("/{workspace_id}/invitations", name="workspaces:invite")
def invite(
    request: Request,
    workspace_id: str,
    who: Writer,
    form: Annotated[Parsed[InvitationCreate], parsed(InvitationCreate)],
    db: Db,
) -> Response:
    """Answers with the page itself: the link is in this one answer only."""
    acting = service.administered(db, who, workspace_id)
    if form.data is None:
        return members_page(request, db, acting, form)
    try:
        row, token = invitations.invite(
            db, acting, workspace_id=workspace_id, **form.data.model_dump()
        )
    except DomainError as error:
        form.refuse(error)
        return members_page(request, db, acting, form)
    return members_page(request, db, acting, invited=handed(request, db, who, row, token))


@router.post("/{workspace_id}/invitations/{invitation_id}/resend", name="workspaces:reinvite")
def resend(
    request: Request, workspace_id: str, invitation_id: str, who: Writer, db: Db
) -> Response:
    """Answers with the page itself: the link is in this one answer only."""
    acting = service.administered(db, who, workspace_id)
    row, token = invitations.resend(db, acting, workspace_id, invitation_id)
    return members_page(request, db, acting, invited=handed(request, db, who, row, token))


@router.post("/{workspace_id}/invitations/{invitation_id}/revoke", name="workspaces:uninvite")
def revoke(
    request: Request, workspace_id: str, invitation_id: str, who: Writer, db: Db
) -> Response:
    service.administered(db, who, workspace_id)
    invitations.revoke(db, workspace_id, invitation_id)
    return redirect(request, "accounts:members", workspace_id=workspace_id)
