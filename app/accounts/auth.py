"""Who asks, in which workspace, and whether they may. Every route declares `requires`."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import Depends, Request
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from app.accounts import acting, limits, platform
from app.accounts.limits import NO_LIMITS, Limits
from app.accounts.tables import ApiKey, Membership, SignIn, User, Workspace
from app.config import settings
from app.db import now
from app.errors import N_, Forbidden, Unauthenticated, Unavailable
from app.queue import transaction
from app.web import language_of

ROLES = ("viewer", "member", "admin", "owner")  # each may do what those before it may
PLATFORM = "platform"  # not a workspace role: the platform's admins
SCOPES = (
    "datasets:read",
    "datasets:write",
    "models:read",
    "models:write",
    "jobs:read",
    "jobs:write",
    "deployments:read",
    "deployments:write",
    "inference",
    "members:read",
    "members:write",
    "account",
    "admin",
)

SECRET = re.compile(r"dk-[A-Za-z0-9_-]{43}\Z")
IDLE = timedelta(days=7)  # a sign-in unused for so long has ended
TOUCH = timedelta(seconds=60)  # `seen_at` and `used_at` are kept no finer than this

BAD_KEY = N_("This API key is not valid: it is unknown, expired or revoked.")
NO_WORKSPACE = N_("Your account is in no workspace yet. Ask an administrator to add you to one.")


@dataclass(frozen=True)
class Principal:
    """A person or their API key, acting in one workspace."""

    user_id: str
    email: str
    name: str
    workspace_id: str
    workspace_name: str
    role: str
    is_platform_admin: bool
    sign_in_id: str | None = None
    api_key_id: str | None = None
    scopes: tuple[str, ...] = SCOPES
    language: str | None = None
    limits: Limits = NO_LIMITS  # of the API key
    is_service: bool = False  # a program's account

    def may(self, role: str) -> bool:
        """Whether this role, or more, is held. Templates ask it to hide what would be refused."""
        if role == PLATFORM:
            return self.is_platform_admin
        return ROLES.index(self.role) >= ROLES.index(role)


def digest(secret: str) -> str:
    """What is stored of a cookie or a key: they are random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def cookie_name() -> str:
    """Cookies do not tell ports apart, so a second stack on one host has a name of its own."""
    if settings.public_url or settings.port == 8420:
        return "danlu_session"
    return f"danlu_session_{settings.port}"


def bearer(request: Request) -> str | None:
    """The text after `Authorization: Bearer`; None when there is no such header."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def stale(at: datetime | None) -> bool:
    return at is None or now() - at > TOUCH


def principal_of(db: Session, workspace_id: str, user_id: str) -> Principal:
    """A member, for what is done on their behalf later. Raises Forbidden if they are none now."""
    user, workspace = db.get_one(User, user_id), db.get_one(Workspace, workspace_id)
    member = db.get(Membership, (workspace_id, user_id))
    if user.disabled_at or member is None:
        raise Forbidden(N_("Who asked for this is no member of the workspace any more."))
    return Principal(
        user_id=user.id,
        email=user.email,
        name=user.name,
        workspace_id=workspace.id,
        workspace_name=workspace.name,
        role=member.role,
        is_platform_admin=False,
        language=user.language,
        is_service=user.is_service,
    )


def principal_of_key(db: Session, secret: str) -> Principal:
    """Whom an API key stands for.

    Raises Unauthenticated if it is unknown, expired or revoked, or its user disabled or gone.
    """
    if not SECRET.match(secret):
        raise Unauthenticated(BAD_KEY, code="invalid_api_key")
    row = db.execute(
        select(ApiKey, User, Membership, Workspace)
        .join(User, User.id == ApiKey.user_id)
        .join(Workspace, Workspace.id == ApiKey.workspace_id)
        .join(
            Membership,
            and_(
                Membership.workspace_id == ApiKey.workspace_id,
                Membership.user_id == ApiKey.user_id,
            ),
        )
        .where(
            ApiKey.secret_hash == digest(secret),
            ApiKey.revoked_at.is_(None),
            User.disabled_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()),
        )
    ).one_or_none()
    if row is None:
        raise Unauthenticated(BAD_KEY, code="invalid_api_key")
    key, user, membership, workspace = row
    if stale(key.used_at):
        key.used_at = now()
    return Principal(
        user_id=user.id,
        email=user.email,
        name=user.name,
        workspace_id=workspace.id,
        workspace_name=workspace.name,
        role=membership.role,
        is_platform_admin=user.is_platform_admin and "admin" in key.scopes,
        api_key_id=key.id,
        scopes=tuple(key.scopes),
        language=user.language,
        limits=limits.of(key),
        is_service=user.is_service,
    )


def check_address(request: Request, who: Principal) -> None:
    """Raises Forbidden if `who` holds a key that is not to be used from there."""
    if who.limits.ips:
        address = request.client.host if request.client else ""
        if not who.limits.admits(address):
            raise Forbidden(
                N_("This API key may not be used from the address %(address)s."),
                code="ip_not_allowed",
                address=address,
            )


def principal_of_cookie(db: Session, token: str) -> Principal | None:
    """Whom a browser's cookie stands for. Raises Forbidden if they are in no workspace at all."""
    row = db.execute(
        select(SignIn, User)
        .join(User, User.id == SignIn.user_id)
        .where(SignIn.token_hash == digest(token))
    ).one_or_none()
    if row is None:
        return None
    sign_in, user = row
    over = sign_in.expires_at <= now() or sign_in.seen_at <= now() - IDLE
    if sign_in.revoked_at or user.disabled_at or over:
        return None
    found = db.execute(
        select(Membership, Workspace)
        .join(Workspace, Workspace.id == Membership.workspace_id)
        .where(Membership.user_id == user.id)
        .order_by(
            (Workspace.id == sign_in.workspace_id).desc(),
            Workspace.personal_of.is_not(None),
            Workspace.name,
        )
        .limit(1)
    ).one_or_none()
    if found is None:
        raise Forbidden(NO_WORKSPACE, code="no_workspace")
    membership, workspace = found
    sign_in.workspace_id = workspace.id  # another one, if they were removed from it meanwhile
    if stale(sign_in.seen_at):
        sign_in.seen_at = now()
    return Principal(
        user_id=user.id,
        email=user.email,
        name=user.name,
        workspace_id=workspace.id,
        workspace_name=workspace.name,
        role=membership.role,
        is_platform_admin=user.is_platform_admin,
        sign_in_id=sign_in.id,
        language=user.language,
    )


def identify(request: Request) -> Principal | None:
    """Who sent this request. A key in the header wins over a cookie, even a wrong key.

    A unit of work of its own, so that no session is held by a handler that streams.
    """
    secret = bearer(request)
    token = request.cookies.get(cookie_name())
    if secret is None and not token:
        return None
    with transaction() as db:
        if secret is not None:
            who: Principal | None = principal_of_key(db, secret)
        else:
            who = principal_of_cookie(db, token or "")
        request.state.platform = platform.read(db)
    if who is not None:
        check_address(request, who)
        acting.become(who)
    request.state.who = who
    return who


@dataclass(frozen=True)
class Requirement:
    """What a route asks of its caller. The matrix test reads `role` and `scope`."""

    role: str
    scope: str | None

    def __call__(self, request: Request) -> Principal:
        who = identify(request)
        if who is None:
            raise Unauthenticated(N_("Sign in first, or send an API key."))
        if who.api_key_id and self.scope not in who.scopes:
            raise Forbidden(
                N_("This API key lacks the scope “%(scope)s”."),
                code="missing_scope",
                scope=self.scope,
            )
        if not who.may(self.role):
            raise Forbidden(
                N_("This needs the role “%(role)s”; yours is “%(yours)s”."),
                role=self.role,
                yours=who.role,
            )
        self.maintained(request, who)
        return who

    def maintained(self, request: Request, who: Principal) -> None:
        """While the platform is maintained, only its admins change anything; inference goes on."""
        maintenance = request.state.platform.maintenance
        still = request.method in ("GET", "HEAD", "OPTIONS") or self.scope == "inference"
        if not maintenance.active or still or who.is_platform_admin:
            return
        if request.scope["path"] == "/logout":
            return
        raise Unavailable(
            N_("The platform is being maintained, so nothing can be changed just now. %(text)s"),
            code="maintenance",
            retry_after=maintenance.retry_after,
            text=maintenance.text(language_of(request)),
        )


class Public:
    """A route for everybody. Says so, so that leaving out `requires` is never an accident."""

    role = None
    scope = None

    def __call__(self) -> None:
        return None


def requires(role: str, scope: str) -> Any:
    """A dependency giving the Principal, who holds `role` or more; an API key also needs `scope`."""
    if role not in (*ROLES, PLATFORM) or scope not in SCOPES:
        raise ValueError(f"no such role or scope: {role!r}, {scope!r}")
    return Depends(Requirement(role, scope))


def public() -> Any:
    """A dependency for routes that anybody may call."""
    return Depends(Public())
