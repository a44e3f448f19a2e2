"""Pages at the other end of one-time links: invitations, and forgotten passwords."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from app.accounts import invitations, platform, resets, signin
from app.accounts.auth import identify, public
from app.accounts.routes import browser_of, entered
from app.accounts.schemas import Joining, NewPassword
from app.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from app.queue import Db
from app.web import Parsed, parsed, redirect, render, sentence

router = APIRouter(include_in_schema=False)
Anybody = Annotated[None, public()]


def of_no_use(request: Request, error: DomainError) -> Response:
    """A wrong, used, withdrawn or expired link, told in words."""
    why = sentence(request, error)
    return render(request, "accounts/link.html", why=why, code=error.code, status=error.status)


def invitation_page(
    request: Request, db: Db, token: str, form: Any = None, error: DomainError | None = None
) -> Response:
    """For whom the link is, and what the reader can do with it."""
    who = identify(request)
    try:
        row = invitations.find(db, token)
    except (NotFound, Conflict) as why:
        return of_no_use(request, why)
    return render(
        request,
        "accounts/invitation.html",
        invitation=row,
        token=token,
        known=invitations.has_account(db, row),
        oidc=platform.read(db).oidc,
        mine=who is not None and who.email == row.email,
        form=form,
        why=sentence(request, error) if error else "",
        status=error.status if error else 422 if form else 200,
    )


@router.get("/invitations/{token}", name="invitations:show")
def show_invitation(request: Request, _: Anybody, token: str, db: Db) -> Response:
    return invitation_page(request, db, token)


@router.post("/invitations/{token}", name="invitations:accept")
def accept_invitation(
    request: Request,
    _: Anybody,
    token: str,
    form: Annotated[Parsed[Joining], parsed(Joining)],
    db: Db,
) -> Response:
    """Somebody signed in joins as they are; else a new account is made, and signed in."""
    who = identify(request)
    try:
        if who:
            row = invitations.accept(db, who, token)
            if row.workspace_id:
                signin.switch_workspace(db, who, row.workspace_id)
            return redirect(request, "/")
        invitations.find(db, token)
        if form.data is None:
            return invitation_page(request, db, token, form)
        user, row = invitations.accept_as_new(db, token, **form.data.model_dump())
    except Invalid as error:
        form.refuse(error)
        return invitation_page(request, db, token, form)
    except (Conflict, Forbidden, NotFound) as error:
        return invitation_page(request, db, token, error=error)
    started = signin.start(db, user, workspace_id=row.workspace_id, **browser_of(request))
    return entered(request, redirect(request, "/"), *started)


def reset_page(request: Request, db: Db, token: str, form: Any = None) -> Response:
    try:
        _, user = resets.find(db, token)
    except (NotFound, Conflict) as why:
        return of_no_use(request, why)
    status = 422 if form else 200
    return render(request, "accounts/reset.html", user=user, token=token, form=form, status=status)


@router.get("/reset/{token}", name="resets:show")
def show_reset(request: Request, _: Anybody, token: str, db: Db) -> Response:
    return reset_page(request, db, token)


@router.post("/reset/{token}", name="resets:use")
def use_reset(
    request: Request,
    _: Anybody,
    token: str,
    form: Annotated[Parsed[NewPassword], parsed(NewPassword)],
    db: Db,
) -> Response:
    """Sets the password and signs in."""
    if form.data is None:
        return reset_page(request, db, token, form)
    try:
        user = resets.use(db, token, form.data.password)
    except Invalid as error:
        form.refuse(error)
        return reset_page(request, db, token, form)
    except (NotFound, Conflict) as error:
        return of_no_use(request, error)
    started = signin.start(db, user, **browser_of(request))
    return entered(request, redirect(request, "/"), *started)
