"""Whose account a sign-in at the provider opens."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import invitations, service
from app.accounts.platform import Oidc
from app.accounts.tables import Identity, Invitation, Membership, User, Workspace
from app.db import now
from app.errors import N_, Forbidden


def person(db: Session, oidc: Oidc, claims: dict[str, Any]) -> User:
    """The account of a subject that is known; else that of their verified address, which is linked
    from now on; else a new one, if they were invited or everybody may come. Raises Forbidden.
    """
    subject, email = str(claims["sub"]), str(claims.get("email") or "").strip().lower()
    domains = oidc.domain_list()
    proved = claims.get("email_verified") in (True, "true")
    if domains and not (proved and email.rpartition("@")[2] in domains):
        raise Forbidden(
            N_("Only addresses of certain domains sign in here; yours is none of them."),
            code="sso_domain",
        )
    known = db.get(Identity, (oidc.issuer, subject))
    user = db.get_one(User, known.user_id) if known else linked(db, oidc, claims, email, proved)
    if user.disabled_at:
        raise Forbidden(N_("This account is disabled."), code="disabled")
    place(db, oidc, claims, user)
    return user


def linked(db: Session, oidc: Oidc, claims: dict[str, Any], email: str, proved: bool) -> User:
    if not email or not proved:
        raise Forbidden(
            N_("The sign-in provider has not verified your e-mail address."), code="sso_unverified"
        )
    email = service.address(email)
    user = db.scalar(select(User).where(User.email == email, User.is_service.is_(False)))
    if user is None:
        user = newcomer(db, oidc, email, str(claims.get("name") or ""))
    db.add(Identity(issuer=oidc.issuer, subject=str(claims["sub"]), user_id=user.id))
    db.flush()
    return user


def newcomer(db: Session, oidc: Oidc, email: str, name: str) -> User:
    """The provider has proved the address, so its open invitations count without their links."""
    rows = db.scalars(
        select(Invitation)
        .where(
            Invitation.email == email,
            Invitation.accepted_at.is_(None),
            Invitation.revoked_at.is_(None),
            Invitation.expires_at > now(),
        )
        .with_for_update()
    ).all()
    if not rows and oidc.create != "everybody":
        raise Forbidden(
            N_("There is no account with the address %(email)s. Ask to be invited."),
            code="sso_unknown",
            email=email,
        )
    user = service.create_user(db, email=email, name=name[:80], password=None)
    for row in rows:
        invitations.join(db, row, user)
    return user


def place(db: Session, oidc: Oidc, claims: dict[str, Any], user: User) -> None:
    """Into the workspaces that the provider's groups stand for, where they are no member yet."""
    groups = claims.get(oidc.groups_claim) if oidc.groups_claim else None
    held = {groups} if isinstance(groups, str) else set(map(str, groups or []))
    for group, slug, role in oidc.rules():
        workspace = db.scalar(select(Workspace).where(Workspace.slug == slug))
        if group not in held or workspace is None or workspace.personal_of:
            continue
        if db.get(Membership, (workspace.id, user.id)) is None:
            service.add_member(db, workspace_id=workspace.id, user=user, role=role)
