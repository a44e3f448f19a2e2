"""Pages: everybody on the platform, for its admins."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.accounts import invitations, letters, people, resets, service
from app.accounts.auth import PLATFORM, Principal, requires
from app.accounts.routes import link
from app.accounts.schemas import PersonInvited
from app.errors import DomainError
from app.queue import Db
from app.web import Parsed, language_of, parsed, redirect, render

router = APIRouter(prefix="/admin/people", include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]
PAGE = 50


def page(
    request: Request,
    db: Db,
    *,
    text: str = "",
    state: str = "",
    offset: int = 0,
    form: Any = None,
    handed: Any = None,
) -> Response:
    """`handed` is (an address, what the link is for, a one-time link, whether it is mailed)."""
    rows, total = people.search(db, text=text, state=state, offset=offset, limit=PAGE)
    return render(
        request,
        "accounts/people.html",
        rows=rows,
        total=total,
        text=text,
        state=state,
        offset=offset,
        limit=PAGE,
        states=people.STATES,
        invitations=invitations.pending(db, None),
        form=form,
        handed=handed,
        status=422 if form else 200,
    )


@router.get("", name="people:list")
def index(
    request: Request,
    _: Admin,
    db: Db,
    q: Annotated[str, Query(max_length=200)] = "",
    state: str = "",
    offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Response:
    return page(request, db, text=q, state=state, offset=offset)


@router.post("/invite", name="people:invite")
def invite(
    request: Request,
    who: Admin,
    form: Annotated[Parsed[PersonInvited], parsed(PersonInvited)],
    db: Db,
) -> Response:
    """Answers with the page itself: the link is in this one answer only."""
    if form.data is None:
        return page(request, db, form=form)
    try:
        row, token = invitations.invite(db, who, workspace_id=None, email=form.data.email)
    except DomainError as error:
        form.refuse(error)
        return page(request, db, form=form)
    url = link(request, "invitations:show", token=token)
    mailed = letters.invitation(db, who, row, url, language_of(request))
    return page(request, db, handed=(row.email, "invitation", url, mailed))


@router.post("/invitations/{invitation_id}/resend", name="people:reinvite")
def resend(request: Request, invitation_id: str, who: Admin, db: Db) -> Response:
    """Answers with the page itself: the link is in this one answer only."""
    row, token = invitations.resend(db, who, None, invitation_id)
    url = link(request, "invitations:show", token=token)
    mailed = letters.invitation(db, who, row, url, language_of(request))
    return page(request, db, handed=(row.email, "invitation", url, mailed))


@router.post("/invitations/{invitation_id}/revoke", name="people:uninvite")
def revoke(request: Request, invitation_id: str, _: Admin, db: Db) -> Response:
    invitations.revoke(db, None, invitation_id)
    return redirect(request, "people:list")


@router.post("/{user_id}/disable", name="people:disable")
def disable(request: Request, user_id: str, who: Admin, db: Db) -> Response:
    service.disable_user(db, who, user_id)
    return redirect(request, "people:list")


@router.post("/{user_id}/enable", name="people:enable")
def enable(request: Request, user_id: str, who: Admin, db: Db) -> Response:
    service.disable_user(db, who, user_id, disabled=False)
    return redirect(request, "people:list")


@router.post("/{user_id}/admin", name="people:make_admin")
def make_admin(request: Request, user_id: str, who: Admin, db: Db) -> Response:
    people.make_admin(db, who, user_id)
    return redirect(request, "people:list")


@router.post("/{user_id}/no-admin", name="people:unmake_admin")
def unmake_admin(request: Request, user_id: str, who: Admin, db: Db) -> Response:
    people.make_admin(db, who, user_id, yes=False)
    return redirect(request, "people:list")


@router.post("/{user_id}/reset-link", name="people:reset")
def reset(request: Request, user_id: str, who: Admin, db: Db) -> Response:
    """Answers with the page itself: the link is in this one answer only."""
    row, user, token = resets.issue(db, who, user_id)
    url = link(request, "resets:show", token=token)
    mailed = letters.reset(db, user, row.expires_at, url, language_of(request))
    return page(request, db, handed=(user.email, "reset", url, mailed))
