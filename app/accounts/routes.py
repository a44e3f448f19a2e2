"""Pages: signing in, one's account, API keys, the workspace and language switches."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from app.accounts import keys as api_keys
from app.accounts import platform, service, signin, workspaces
from app.accounts.auth import Principal, cookie_name, identify, public, requires
from app.accounts.schemas import (
    KeyEdit,
    KeyForm,
    LanguageForm,
    NextForm,
    PasswordForm,
    SignInForm,
)
from app.accounts.tables import SignIn
from app.config import settings
from app.errors import DomainError, Invalid, TooMany
from app.queue import Db
from app.web import Parsed, address, parsed, redirect, render

router = APIRouter(include_in_schema=False)
Anybody = Annotated[None, public()]
Who = Annotated[Principal, requires("viewer", "account")]


def here(path: str) -> str:
    """`path` if it is one of ours, so that no link can send a reader elsewhere after signing in."""
    parts = urlsplit(path)
    own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if own and not parts.netloc and not parts.scheme else "/"


def secure(request: Request) -> bool:
    return request.url.scheme == "https" or settings.public_url.startswith("https://")


def client_ip(request: Request) -> str:
    return request.client.host if request.client else ""


def browser_of(request: Request) -> dict[str, str]:
    """Where a session begins, as `signin.start` asks."""
    return {"ip": client_ip(request), "user_agent": request.headers.get("user-agent", "")}


def link(request: Request, route: str, **params: str) -> str:
    """The whole address of a page, to be handed to somebody."""
    base = settings.public_url or str(request.base_url)
    return base.rstrip("/") + address(request.app, route, **params)


# -- in and out --------------------------------------------------------------------------


def login_page(
    request: Request,
    db: Db,
    *,
    form: Parsed[SignInForm] | None = None,
    back: str = "/",
    wrong: str = "",
    status: int = 200,
) -> Response:
    """`wrong` is why single sign-on did not work."""
    request.state.platform = platform.read(db)
    return render(
        request,
        "accounts/login.html",
        form=form,
        next=back,
        oidc=request.state.platform.oidc,
        wrong=wrong,
        out=request.query_params.get("out") == "oidc",
        status=status,
    )


@router.get("/login", name="accounts:login")
def login(request: Request, _: Anybody, db: Db) -> Response:
    back = here(request.query_params.get("next", "/"))
    if identify(request):
        return redirect(request, back)
    return login_page(request, db, back=back)


@router.post("/login", name="accounts:sign_in")
def sign_in(
    request: Request, _: Anybody, form: Annotated[Parsed[SignInForm], parsed(SignInForm)], db: Db
) -> Response:
    request.state.platform = platform.read(db)
    back = here(str(form.values.get("next", "/")))
    if form.data is None:
        return login_page(request, db, form=form, back=back, status=422)
    try:
        row, token = signin.sign_in(
            db,
            email=form.data.email,
            password=form.data.password,
            **browser_of(request),
        )
    except DomainError as error:
        return refused(request, db, form, error, back)
    return entered(request, redirect(request, back), row, token)


def entered(request: Request, response: Response, row: SignIn, token: str) -> Response:
    """`response`, with the cookie of a new session."""
    age = int((row.expires_at - row.created_at).total_seconds())
    response.set_cookie(
        cookie_name(), token, max_age=age, httponly=True, samesite="lax", secure=secure(request)
    )
    return response


def refused(
    request: Request, db: Db, form: Parsed[SignInForm], error: DomainError, back: str
) -> Response:
    form.refuse(error)
    response = login_page(request, db, form=form, back=back, status=error.status)
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


@router.post("/logout", name="accounts:sign_out")
def sign_out(
    request: Request, who: Who, form: Annotated[Parsed[NextForm], parsed(NextForm)], db: Db
) -> Response:
    after = here(form.data.next) if form.data else "/login"
    if who.sign_in_id and signin.revoke(db, who.user_id, who.sign_in_id).by_oidc:
        after = "/login?out=oidc" if after == "/login" else after
    response = redirect(request, after)
    response.delete_cookie(cookie_name(), httponly=True, samesite="lax", secure=secure(request))
    return response


@router.post("/language", name="accounts:language")
def language(
    request: Request,
    _: Anybody,
    form: Annotated[Parsed[LanguageForm], parsed(LanguageForm)],
    db: Db,
) -> Response:
    chosen = form.data.lang if form.data else "en"
    if who := identify(request):
        signin.set_language(db, who, chosen)
    response = redirect(request, here(str(form.values.get("next", "/"))))
    response.set_cookie(
        "danlu_lang", chosen, max_age=31536000, samesite="lax", secure=secure(request)
    )
    return response


# -- one's account -----------------------------------------------------------------------


def account_page(
    request: Request,
    who: Principal,
    db: Db,
    form: Parsed[PasswordForm] | None = None,
    changed: bool = False,
) -> Response:
    return render(
        request,
        "accounts/account.html",
        form=form,
        changed=changed,
        sign_ins=signin.sign_ins(db, who.user_id),
        browser=signin.browser,
        workspaces=service.workspaces_of(db, who.user_id),
        may_create=workspaces.may_create(db, who),
        status=422 if form else 200,
    )


@router.get("/account", name="accounts:account")
def account(request: Request, who: Who, db: Db, changed: bool = False) -> Response:
    return account_page(request, who, db, changed=changed)


@router.post("/account/password", name="accounts:password")
def change_password(
    request: Request, who: Who, form: Annotated[Parsed[PasswordForm], parsed(PasswordForm)], db: Db
) -> Response:
    if form.data is None:
        return account_page(request, who, db, form)
    try:
        signin.change_password(
            db,
            who,
            ip=client_ip(request),
            current=form.data.current,
            password=form.data.password,
        )
    except DomainError as error:
        form.refuse(error)
        return account_page(request, who, db, form)
    return redirect(request, "/account?changed=true")


@router.post("/account/sign-ins/{sign_in_id}/revoke", name="accounts:revoke_sign_in")
def revoke_sign_in(request: Request, sign_in_id: str, who: Who, db: Db) -> Response:
    signin.revoke(db, who.user_id, sign_in_id)
    return redirect(request, "/account")


@router.post("/account/sign-ins/revoke-others", name="accounts:revoke_others")
def revoke_others(request: Request, who: Who, db: Db) -> Response:
    signin.revoke_others(db, who.user_id, keep=who.sign_in_id)
    return redirect(request, "/account")


# -- API keys ----------------------------------------------------------------------------


def keys_page(
    request: Request,
    who: Principal,
    db: Db,
    form: Parsed[KeyForm] | None = None,
    secret: str | None = None,
) -> Response:
    return render(
        request,
        "accounts/keys.html",
        form=form,
        secret=secret,
        keys=api_keys.list_api_keys(db, who),
        scopes=api_keys.scopes_for(who),
        chosen=api_keys.usual_scopes(who),
        base_url=settings.url,
        status=422 if form else 200,
    )


@router.get("/keys", name="accounts:keys")
def keys(request: Request, who: Who, db: Db) -> Response:
    return keys_page(request, who, db)


@router.post("/keys", name="accounts:create_key")
def create_key(
    request: Request, who: Who, form: Annotated[Parsed[KeyForm], parsed(KeyForm)], db: Db
) -> Response:
    """Answers with the page itself: the secret is in this one answer and nowhere else."""
    if form.data is None:
        return keys_page(request, who, db, form)
    try:
        _, secret = api_keys.issue_api_key(db, who, **form.data.made())
    except DomainError as error:
        form.refuse(error)
        return keys_page(request, who, db, form)
    return keys_page(request, who, db, secret=secret)


def key_page(
    request: Request, who: Principal, db: Db, key_id: str, form: Parsed[KeyEdit] | None = None
) -> Response:
    key = api_keys.get_api_key(db, who, key_id)
    owner = api_keys.owner(db, key)
    status = 422 if form else 200
    return render(request, "accounts/key.html", form=form, key=key, owner=owner, status=status)


@router.get("/keys/{key_id}", name="accounts:key")
def key(request: Request, key_id: str, who: Who, db: Db) -> Response:
    return key_page(request, who, db, key_id)


@router.post("/keys/{key_id}", name="accounts:change_key")
def change_key(
    request: Request,
    key_id: str,
    who: Who,
    form: Annotated[Parsed[KeyEdit], parsed(KeyEdit)],
    db: Db,
) -> Response:
    if form.data is None:
        return key_page(request, who, db, key_id, form)
    try:
        api_keys.change_api_key(db, who, key_id, form.data.changes())
    except Invalid as error:
        form.refuse(error)
        return key_page(request, who, db, key_id, form)
    return redirect(request, "accounts:keys")


@router.post("/keys/{key_id}/revoke", name="accounts:revoke_key")
def revoke_key(request: Request, key_id: str, who: Who, db: Db) -> Response:
    api_keys.revoke_api_key(db, who, key_id)
    return redirect(request, "/keys")


# -- the workspace in view ---------------------------------------------------------------


@router.get("/workspaces/menu", name="accounts:workspace_menu")
def workspace_menu(request: Request, who: Who, db: Db) -> Response:
    return render(
        request,
        "accounts/workspace_menu.html",
        workspaces=service.workspaces_of(db, who.user_id),
        may_create=workspaces.may_create(db, who),
    )


@router.post("/workspaces/{workspace_id}/switch", name="accounts:switch")
def switch_workspace(request: Request, workspace_id: str, who: Who, db: Db) -> Response:
    signin.switch_workspace(db, who, workspace_id)
    return redirect(request, "/")
