"""JSON: one's own account, and all accounts for platform admins."""

from typing import Annotated

from fastapi import APIRouter, Request

from app.accounts import letters, people, resets, service, signin
from app.accounts.answers import (
    ResetMade,
    SignInList,
    SignInOut,
    UserList,
    UserMade,
    UserOut,
)
from app.accounts.auth import PLATFORM, Principal, requires
from app.accounts.routes import client_ip, link
from app.accounts.schemas import LanguageChange, PasswordChange, UserCreate
from app.accounts.tables import User
from app.paging import After, Limit, page
from app.queue import Db
from app.web import language_of

router = APIRouter(prefix="/api/v1", tags=["accounts"])
Who = Annotated[Principal, requires("viewer", "account")]
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


# -- one's own ---------------------------------------------------------------------------


@router.put("/me/language", status_code=204)
def change_language(body: LanguageChange, who: Who, db: Db) -> None:
    """In which language your account is spoken to; null follows the browser."""
    signin.set_language(db, who, body.language)


@router.put("/me/password", status_code=204)
def change_password(request: Request, body: PasswordChange, who: Who, db: Db) -> None:
    """Ends every sign-in but the one that asks. API keys go on working."""
    signin.change_password(
        db, who, ip=client_ip(request), current=body.current, password=body.password
    )


@router.get("/me/sign-ins")
def list_sign_ins(who: Who, db: Db, after: After = "", limit: Limit = 100) -> SignInList:
    """The browsers in which you are signed in."""
    rows, more = page(signin.sign_ins(db, who.user_id), after, limit)
    return SignInList(data=[SignInOut.of(row, who.sign_in_id) for row in rows], has_more=more)


@router.delete("/me/sign-ins/{sign_in_id}", status_code=204)
def end_sign_in(sign_in_id: str, who: Who, db: Db) -> None:
    """Sign a browser out."""
    signin.revoke(db, who.user_id, sign_in_id)


@router.delete("/me/sign-ins", status_code=204)
def end_sign_ins(who: Who, db: Db) -> None:
    """Sign out every browser but the one that asks."""
    signin.revoke_others(db, who.user_id, keep=who.sign_in_id)


# -- for platform admins -----------------------------------------------------------------


@router.get("/users")
def list_users(_who: Admin, db: Db, after: After = "", limit: Limit = 100) -> UserList:
    """Every account of the platform."""
    rows, more = page(service.list_users(db), after, limit)
    return UserList(data=[UserOut.model_validate(user) for user in rows], has_more=more)


@router.post("/users", status_code=201)
def create_user(request: Request, body: UserCreate, who: Admin, db: Db) -> UserMade:
    """Open an account in a workspace. Its password is in this answer and nowhere else."""
    request.state.secret = True
    return made(*service.open_account(db, who, **body.model_dump()))


@router.post("/users/{user_id}/disable")
def disable_user(user_id: str, who: Admin, db: Db) -> UserOut:
    """Sign-ins end and API keys stop working at once. Nobody disables themselves."""
    return UserOut.model_validate(service.disable_user(db, who, user_id))


@router.post("/users/{user_id}/enable")
def enable_user(user_id: str, who: Admin, db: Db) -> UserOut:
    """Let a disabled account in again."""
    return UserOut.model_validate(service.disable_user(db, who, user_id, disabled=False))


@router.post("/users/{user_id}/admin")
def make_admin(user_id: str, who: Admin, db: Db) -> UserOut:
    """Make somebody a platform admin."""
    return UserOut.model_validate(people.make_admin(db, who, user_id))


@router.delete("/users/{user_id}/admin")
def unmake_admin(user_id: str, who: Admin, db: Db) -> UserOut:
    """A platform admin no longer. Nobody takes it from themselves."""
    return UserOut.model_validate(people.make_admin(db, who, user_id, yes=False))


@router.post("/users/{user_id}/reset-link")
def make_reset_link(request: Request, user_id: str, who: Admin, db: Db) -> ResetMade:
    """A one-time link for somebody who forgot their password; it is in this answer and nowhere
    else, and stops earlier ones. It lasts a day.
    """
    request.state.secret = True
    row, user, token = resets.issue(db, who, user_id)
    url = link(request, "resets:show", token=token)
    mailed = letters.reset(db, user, row.expires_at, url, language_of(request))
    return ResetMade(
        user_id=user.id, email=user.email, url=url, mailed=mailed, expires_at=row.expires_at
    )


def made(user: User, password: str) -> UserMade:
    return UserMade(**UserOut.model_validate(user).model_dump(), password=password)
