"""One-time links for those who forgot their password. An administrator makes and hands them over."""

import secrets
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.accounts import service
from app.accounts.auth import Principal, digest
from app.accounts.invitations import TOKEN
from app.accounts.passwords import hash_password
from app.accounts.tables import ResetLink, User
from app.db import now
from app.errors import N_, Conflict, NotFound

LASTS = timedelta(hours=24)


def issue(db: Session, who: Principal, user_id: str) -> tuple[ResetLink, User, str]:
    """The link's row, whose it is, and its token, which is nowhere else and is shown once.

    Earlier links of theirs stop working. Nothing else changes until it is used.
    """
    user = service.get_user(db, user_id)
    if user.id == who.user_id:
        raise Conflict(N_("Change your own password on your account page."))
    db.execute(delete(ResetLink).where(ResetLink.user_id == user.id, ResetLink.used_at.is_(None)))
    token = secrets.token_urlsafe(32)
    row = ResetLink(
        user_id=user.id, token_hash=digest(token), made_by=who.user_id, expires_at=now() + LASTS
    )
    db.add(row)
    db.flush()
    return row, user, token


def find(db: Session, token: str) -> tuple[ResetLink, User]:
    """The open link, locked, and whose it is. Raises NotFound, or Conflict saying why not."""
    query = select(ResetLink).where(ResetLink.token_hash == digest(token)).with_for_update()
    row = db.scalar(query) if TOKEN.match(token) else None
    if row is None:
        raise NotFound(
            N_("This link is not known: it is incomplete, or a newer one took its place."),
            code="link_unknown",
        )
    if row.used_at:
        raise Conflict(
            N_("This link has been used. Sign in with your new password, or ask for another link."),
            code="link_used",
        )
    if row.expires_at <= now():
        raise Conflict(
            N_("This link has expired. Ask an administrator for another."), code="link_expired"
        )
    user = db.get_one(User, row.user_id)
    if user.disabled_at:
        raise Conflict(N_("This account is disabled."), code="disabled")
    return row, user


def use(db: Session, token: str, password: str) -> User:
    """Set the password. All their sign-ins end; API keys go on working."""
    row, user = find(db, token)
    user.password_hash = hash_password(password)
    row.used_at = now()
    service.end_sign_ins(db, user.id)
    return user
