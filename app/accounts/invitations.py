"""Invitations: one-time links by which people come in. Of a link only a hash is kept."""

import re
import secrets
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.accounts import platform, service
from app.accounts.auth import Principal, digest
from app.accounts.tables import Invitation, Membership, User
from app.db import now
from app.errors import N_, Conflict, Forbidden, NotFound

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


def invite(
    db: Session, who: Principal, *, workspace_id: str | None, email: str, role: str = "member"
) -> tuple[Invitation, str]:
    """The row and the token of its link, which is nowhere else and is shown once.

    `who` acts in the workspace (`service.administered`); without one, somebody is invited to the
    platform and finds only a workspace of their own. An open invitation of the same address to the
    same place is withdrawn. Raises Invalid, Forbidden, and Conflict for who is there already.
    """
    email = service.address(email)
    service.check_role(who, role)
    user = db.scalar(select(User).where(User.email == email))
    if user and (workspace_id is None or db.get(Membership, (workspace_id, user.id))):
        raise Conflict(N_("%(email)s is here already."), field="email", email=email)
    where = Invitation.workspace_id.is_not_distinct_from(workspace_id)
    service.withdraw(db, Invitation.email == email, where)
    row = Invitation(workspace_id=workspace_id, email=email, role=role, invited_by=who.user_id)
    token = renew(db, row)
    db.add(row)
    db.flush()
    return row, token


def renew(db: Session, row: Invitation) -> str:
    """A new token; the one before it, if any, is worth nothing from now on."""
    token = secrets.token_urlsafe(32)
    row.token_hash = digest(token)
    row.expires_at = now() + timedelta(days=platform.read(db).people.invitation_days)
    return token


def pending(db: Session, workspace_id: str | None) -> list[Invitation]:
    """Neither accepted nor withdrawn, the newest first, with `.inviter` and `.workspace`; expired
    ones too. None: those to the platform alone.
    """
    return list(
        db.scalars(
            select(Invitation)
            .options(joinedload(Invitation.inviter), joinedload(Invitation.workspace))
            .where(
                Invitation.workspace_id.is_not_distinct_from(workspace_id),
                Invitation.accepted_at.is_(None),
                Invitation.revoked_at.is_(None),
            )
            .order_by(Invitation.created_at.desc(), Invitation.id)
        )
    )


def get(db: Session, workspace_id: str | None, invitation_id: str) -> Invitation:
    """One that is pending there. Raises NotFound."""
    row = db.get(Invitation, invitation_id, with_for_update=True)
    gone = row is None or row.accepted_at or row.revoked_at
    if row is None or gone or row.workspace_id != workspace_id:
        raise NotFound(N_("There is no such invitation."))
    return row


def resend(
    db: Session, who: Principal, workspace_id: str | None, invitation_id: str
) -> tuple[Invitation, str]:
    """The same invitation with a new link; the old one stops working."""
    row = get(db, workspace_id, invitation_id)
    service.check_role(who, row.role)
    return row, renew(db, row)


def revoke(db: Session, workspace_id: str | None, invitation_id: str) -> None:
    get(db, workspace_id, invitation_id).revoked_at = now()


# -- at the other end of the link --------------------------------------------------------


def find(db: Session, token: str) -> Invitation:
    """The open invitation, locked, with `.workspace` and `.inviter`.

    Raises NotFound, or Conflict saying whether it was used, withdrawn or has expired.
    """
    query = (
        select(Invitation)
        .options(joinedload(Invitation.workspace), joinedload(Invitation.inviter))
        .where(Invitation.token_hash == digest(token))
        .with_for_update(of=Invitation)
    )
    row = db.scalar(query) if TOKEN.match(token) else None
    if row is None:
        raise NotFound(
            N_("This link is not known: it is incomplete, or a newer one took its place."),
            code="link_unknown",
        )
    if row.accepted_at:
        raise Conflict(
            N_("This invitation has been used. If it was by you, just sign in."), code="link_used"
        )
    if row.revoked_at:
        raise Conflict(
            N_("This invitation was withdrawn. Ask who invited you for a new one."),
            code="link_revoked",
        )
    if row.expires_at <= now():
        raise Conflict(
            N_("This invitation has expired. Ask who invited you for a new link."),
            code="link_expired",
        )
    return row


def has_account(db: Session, row: Invitation) -> bool:
    return db.scalar(select(User.id).where(User.email == row.email)) is not None


def accept(db: Session, who: Principal, token: str) -> Invitation:
    """By somebody signed in, whose address must be the invited one."""
    row = find(db, token)
    if row.email != who.email:
        raise Forbidden(
            N_("This invitation is for %(email)s; you are signed in as %(yours)s."),
            code="other_address",
            email=row.email,
            yours=who.email,
        )
    join(db, row, db.get_one(User, who.user_id))
    return row


def accept_as_new(
    db: Session, token: str, *, name: str, password: str | None
) -> tuple[User, Invitation]:
    """By somebody without an account, who gets one. Raises Conflict if there is one."""
    row = find(db, token)
    if has_account(db, row):
        raise Conflict(
            N_("There is an account with the address %(email)s. Sign in to accept."),
            code="has_account",
            email=row.email,
        )
    user = service.create_user(db, email=row.email, name=name, password=password)
    join(db, row, user)
    return user, row


def join(db: Session, row: Invitation, user: User) -> None:
    """Who is a member already keeps their role."""
    if row.workspace_id and db.get(Membership, (row.workspace_id, user.id)) is None:
        service.add_member(db, workspace_id=row.workspace_id, user=user, role=row.role)
    row.accepted_at = now()
    row.accepted_by = user.id
