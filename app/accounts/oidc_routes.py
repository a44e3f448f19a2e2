"""Pages: single sign-on, there and back."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.accounts import identities, oidc, platform, signin
from app.accounts.auth import cookie_name, public
from app.accounts.platform import Oidc
from app.accounts.routes import browser_of, entered, here, link, login_page, secure
from app.errors import DomainError, NotFound
from app.queue import Db
from app.web import redirect, sentence

router = APIRouter(prefix="/login/oidc", include_in_schema=False)
Anybody = Annotated[None, public()]
Long = Annotated[str, Query(max_length=4000)]


def settings(db: Db) -> Oidc:
    """Raises NotFound while single sign-on is off."""
    found = platform.read(db).oidc
    if not found.enabled:
        raise NotFound
    return found


def cookie() -> str:
    return f"{cookie_name()}_oidc"


def refused(request: Request, db: Db, error: DomainError) -> Response:
    response = login_page(request, db, wrong=sentence(request, error), status=error.status)
    response.delete_cookie(cookie(), path="/login/oidc")
    return response


@router.get("", name="oidc:begin")
def begin(request: Request, _: Anybody, db: Db) -> Response:
    """To the provider."""
    ours = settings(db)
    try:
        where, browser = oidc.begin(
            ours,
            redirect_uri=link(request, "oidc:callback"),
            back=here(request.query_params.get("next", "/")[:2000]),
        )
    except DomainError as error:
        return refused(request, db, error)
    response = Response(status_code=303, headers={"location": where})
    response.set_cookie(
        cookie(), browser, max_age=oidc.LASTS, path="/login/oidc",
        httponly=True, samesite="lax", secure=secure(request),
    )  # fmt: skip
    return response


@router.get("/callback", name="oidc:callback")
def callback(
    request: Request, _: Anybody, db: Db, state: Long = "", code: Long = "",
    error: Long = "", iss: Long = "",
) -> Response:  # fmt: skip
    """Back from the provider: signed in, or told why not."""
    ours = settings(db)
    try:
        attempt = oidc.taken(state, request.cookies.get(cookie(), ""))
        if error or not code or (iss and iss != ours.issuer):  # iss: RFC 9207
            raise oidc.declined(error)
        claims = oidc.finish(ours, attempt, code=code, redirect_uri=link(request, "oidc:callback"))
        user = identities.person(db, ours, claims)
        started = signin.start(db, user, **browser_of(request))
        started[0].by_oidc = True
    except DomainError as why:
        db.rollback()
        return refused(request, db, why)
    response = entered(request, redirect(request, attempt.back), *started)
    response.delete_cookie(cookie(), path="/login/oidc")
    return response


@router.get("/logout", name="oidc:goodbye")
def goodbye(request: Request, _: Anybody, db: Db) -> Response:
    """To where one signs out of the provider."""
    try:
        where = oidc.goodbye(settings(db), link(request, "accounts:login"))
    except NotFound:
        raise
    except DomainError as error:
        return refused(request, db, error)
    return Response(status_code=303, headers={"location": where or "/login"})
