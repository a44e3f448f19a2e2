"""JSON: invitations to a workspace or to the platform, and accepting one."""

from typing import Annotated

from fastapi import APIRouter, Request

from app.accounts import invitations, letters, resets, service
from app.accounts.answers import InvitationList, InvitationMade, InvitationOut, Joined, UserOut
from app.accounts.auth import PLATFORM, Principal, identify, public, requires
from app.accounts.routes import link
from app.accounts.schemas import InvitationCreate, Joining, NewPassword, PersonInvited
from app.accounts.tables import Invitation
from app.paging import After, Limit, page
from app.queue import Db
from app.web import language_of

router = APIRouter(prefix="/api/v1", tags=["accounts"])
Anybody = Annotated[None, public()]
Reader = Annotated[Principal, requires("viewer", "members:read")]
Writer = Annotated[Principal, requires("viewer", "members:write")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


def made(request: Request, db: Db, who: Principal, row: Invitation, token: str) -> InvitationMade:
    request.state.secret = True
    whole = InvitationOut.model_validate(row).model_dump()
    url = link(request, "invitations:show", token=token)
    mailed = letters.invitation(db, who, row, url, language_of(request))
    return InvitationMade(**whole, url=url, mailed=mailed)


# -- to a workspace ----------------------------------------------------------------------


@router.get("/workspaces/{workspace_id}/invitations")
def list_invitations(
    workspace_id: str, who: Reader, db: Db, after: After = "", limit: Limit = 100
) -> InvitationList:
    """Those neither accepted nor withdrawn; also what has expired. For the workspace's admins."""
    service.administered(db, who, workspace_id)
    rows, more = page(invitations.pending(db, workspace_id), after, limit)
    return InvitationList(data=[InvitationOut.model_validate(row) for row in rows], has_more=more)


@router.post("/workspaces/{workspace_id}/invitations", status_code=201)
def invite(
    request: Request, workspace_id: str, body: InvitationCreate, who: Writer, db: Db
) -> InvitationMade:
    """Invite an address. The link is in this answer and nowhere else; an earlier one of the same
    address stops working.
    """
    acting = service.administered(db, who, workspace_id)
    found = invitations.invite(db, acting, workspace_id=workspace_id, **body.model_dump())
    return made(request, db, who, *found)


@router.post("/workspaces/{workspace_id}/invitations/{invitation_id}/resend")
def resend(
    request: Request, workspace_id: str, invitation_id: str, who: Writer, db: Db
) -> InvitationMade:
    """A new link for the same invitation; the old one stops working."""
    acting = service.administered(db, who, workspace_id)
    return made(request, db, who, *invitations.resend(db, acting, workspace_id, invitation_id))


@router.delete("/workspaces/{workspace_id}/invitations/{invitation_id}", status_code=204)
def revoke(workspace_id: str, invitation_id: str, who: Writer, db: Db) -> None:
    """The link stops working."""
    service.administered(db, who, workspace_id)
    invitations.revoke(db, workspace_id, invitation_id)


# -- to the platform ---------------------------------------------------------------------


@router.get("/invitations")
def list_platform_invitations(
    _who: Admin, db: Db, after: After = "", limit: Limit = 100
) -> InvitationList:
    """Those to the platform alone, whose holders find only a workspace of their own."""
    rows, more = page(invitations.pending(db, None), after, limit)
    return InvitationList(data=[InvitationOut.model_validate(row) for row in rows], has_more=more)


@router.post("/invitations", status_code=201)
def invite_person(request: Request, body: PersonInvited, who: Admin, db: Db) -> InvitationMade:
    """Invite an address to the platform. The link is in this answer and nowhere else."""
    return made(request, db, who, *invitations.invite(db, who, workspace_id=None, email=body.email))


@router.post("/invitations/{invitation_id}/resend")
def resend_to_person(request: Request, invitation_id: str, who: Admin, db: Db) -> InvitationMade:
    """A new link for the same invitation; the old one stops working."""
    return made(request, db, who, *invitations.resend(db, who, None, invitation_id))


@router.delete("/invitations/{invitation_id}", status_code=204)
def revoke_of_person(invitation_id: str, _who: Admin, db: Db) -> None:
    """The link stops working."""
    invitations.revoke(db, None, invitation_id)


# -- at the other end of a link ----------------------------------------------------------


@router.post("/links/{token}/join")
def accept(request: Request, _: Anybody, token: str, body: Joining, db: Db) -> Joined:
    """Accept an invitation. `token` is the last part of its address. With an API key or a session
    of the invited address you join as you are; without, a new account is made.
    """
    who = identify(request)
    if who:
        row, user_id = invitations.accept(db, who, token), who.user_id
    else:
        user, row = invitations.accept_as_new(db, token, **body.model_dump())
        user_id = user.id
    return Joined(user_id=user_id, workspace_id=row.workspace_id, role=row.role)


@router.post("/links/{token}/password")
def reset_password(_: Anybody, token: str, body: NewPassword, db: Db) -> UserOut:
    """Set a new password by a one-time link. All sign-ins end."""
    return UserOut.model_validate(resets.use(db, token, body.password))
