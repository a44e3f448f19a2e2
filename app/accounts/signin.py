"""Signing in and out: throttle, server-side sessions, password change."""

import hashlib
import secrets
from datetime import timedelta

import structlog
from redis.exceptions import RedisError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.accounts import acting, audit
from app.accounts.auth import IDLE, NO_WORKSPACE, Principal, digest
from app.accounts.passwords import hash_password, verify_password
from app.accounts.tables import Membership, SignIn, User, Workspace
from app.db import now
from app.errors import N_, Forbidden, Invalid, NotFound, TooMany, Unauthenticated
from app.queue import redis

log = structlog.get_logger()

LIFETIME = timedelta(days=30)
PER_ACCOUNT, PER_ADDRESS = 5, 50  # attempts in a window, from one address
# the first mark found decides: Edge calls itself Chrome as well, and Chrome Safari
BROWSERS = {
    "Edg": "Edge",
    "OPR/": "Opera",
    "Firefox/": "Firefox",
    "MicroMessenger": "WeChat",
    "Chrome/": "Chrome",
    "Safari/": "Safari",
    "curl/": "curl",
    "python": "Python",
}
SYSTEMS = {
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Android": "Android",
    "Windows": "Windows",
    "Mac OS X": "macOS",
    "Linux": "Linux",
}
WINDOW = 300  # seconds


def throttle_keys(ip: str, email: str) -> tuple[str, str]:
    account = hashlib.sha256(email.encode()).hexdigest()[:24]
    return f"signin:{ip}:{account}", f"signin:{ip}"


def throttle(ip: str, email: str) -> None:
    """Count an attempt. Raises TooMany, whether or not the account exists.

    A Redis that is away lets people in: the password still stands before the door.
    """
    for key, most in zip(throttle_keys(ip, email), (PER_ACCOUNT, PER_ADDRESS), strict=True):
        try:
            pipe = redis().pipeline()
            pipe.set(key, 0, ex=WINDOW, nx=True)
            pipe.incr(key)
            pipe.ttl(key)
            _, count, ttl = pipe.execute()
        except (RedisError, OSError) as error:
            log.warning("sign-in not throttled", error=str(error))
            return
        if count > most:
            raise TooMany(
                N_("Too many attempts to sign in. Try again in %(minutes)s min."),
                retry_after=max(1, ttl),
                minutes=max(1, -(-ttl // 60)),
            )


def forgive(ip: str, email: str) -> None:
    """A right password clears the account's count."""
    try:
        redis().delete(throttle_keys(ip, email)[0])
    except (RedisError, OSError) as error:
        log.warning("sign-in count not cleared", error=str(error))


def sign_in(
    db: Session, *, email: str, password: str, ip: str, user_agent: str
) -> tuple[SignIn, str]:
    """The session's row and its token (256 random bits), which goes into the cookie.

    One sentence for an unknown address, a wrong password and a disabled account.
    """
    email = email.strip().lower()
    throttle(ip, email)
    user = db.scalar(select(User).where(User.email == email, User.disabled_at.is_(None)))
    if not verify_password(user.password_hash if user else None, password) or user is None:
        audit.note_apart("sign_in_failed", "user", user.id if user else "", name=email)
        raise Unauthenticated(N_("The address or the password is wrong."), code="wrong_credentials")
    forgive(ip, email)
    return start(db, user, ip=ip, user_agent=user_agent)


def start(
    db: Session,
    user: User,
    *,
    ip: str,
    user_agent: str,
    workspace_id: str | None = None,
) -> tuple[SignIn, str]:
    """A new session of `user`, in `workspace_id`, else the one they used last, else a team's."""
    last = (
        select(SignIn.workspace_id)
        .where(SignIn.user_id == user.id)
        .order_by(SignIn.seen_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = db.scalar(
        select(Membership.workspace_id)
        .join(Workspace, Workspace.id == Membership.workspace_id)
        .where(Membership.user_id == user.id)
        .order_by(
            (Membership.workspace_id == workspace_id).desc().nulls_last(),
            (Membership.workspace_id == last).desc().nulls_last(),
            Workspace.personal_of.is_not(None),
            Membership.created_at,
        )
        .limit(1)
    )
    if found is None:
        raise Forbidden(NO_WORKSPACE, code="no_workspace")
    token = secrets.token_urlsafe(32)
    row = SignIn(
        token_hash=digest(token),
        user_id=user.id,
        workspace_id=found,
        ip=ip,
        user_agent=user_agent[:300],
        expires_at=now() + LIFETIME,
    )
    db.add(row)
    db.flush()
    acting.signed_in(user.id, user.email, found)
    audit.note(db, "sign_in", "user", user.id, name=user.email, workspace_id=found)
    return row, token


def sign_ins(db: Session, user_id: str) -> list[SignIn]:
    """Those that still work, the latest used first."""
    return list(
        db.scalars(
            select(SignIn)
            .where(
                SignIn.user_id == user_id,
                SignIn.revoked_at.is_(None),
                SignIn.expires_at > now(),
                SignIn.seen_at > now() - IDLE,
            )
            .order_by(SignIn.seen_at.desc(), SignIn.id)
        )
    )


def browser(user_agent: str) -> str:
    """What a person would call it: `Firefox, Windows`. Empty if it says nothing known."""
    found = []
    for known in (BROWSERS, SYSTEMS):
        names = [name for mark, name in known.items() if mark in user_agent]
        found += names[:1]
    return ", ".join(found)


def revoke(db: Session, user_id: str, sign_in_id: str) -> SignIn:
    row = db.get(SignIn, sign_in_id)
    if row is None or row.user_id != user_id:
        raise NotFound(N_("There is no such sign-in."))
    row.revoked_at = row.revoked_at or now()
    audit.note(db, "sign_out", "user", user_id, workspace_id=row.workspace_id)
    return row


def revoke_others(db: Session, user_id: str, keep: str | None) -> None:
    query = update(SignIn).where(SignIn.user_id == user_id, SignIn.revoked_at.is_(None))
    if keep:
        query = query.where(SignIn.id != keep)
    db.execute(query.values(revoked_at=now()))


def switch_workspace(db: Session, who: Principal, workspace_id: str) -> None:
    """What the browser's session shows from now on. NotFound unless they are a member there."""
    row = db.get(SignIn, who.sign_in_id) if who.sign_in_id else None
    if row is None or db.get(Membership, (workspace_id, who.user_id)) is None:
        raise NotFound(N_("There is no such workspace."))
    row.workspace_id = workspace_id


def change_password(db: Session, who: Principal, *, ip: str, current: str, password: str) -> None:
    """Ends every other sign-in. The current password is asked for, and throttled like a sign-in."""
    throttle(ip, who.email)
    user = db.get_one(User, who.user_id)
    if not verify_password(user.password_hash, current):
        raise Invalid(N_("This is not your current password."), field="current")
    forgive(ip, who.email)
    user.password_hash = hash_password(password)
    revoke_others(db, user.id, keep=who.sign_in_id)


def set_language(db: Session, who: Principal, language: str | None) -> None:
    """None follows the browser."""
    db.get_one(User, who.user_id).language = language
