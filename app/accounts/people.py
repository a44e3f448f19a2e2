"""Everybody on the platform, for its admins."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, contains_eager

from app.accounts import service
from app.accounts.auth import Principal
from app.accounts.tables import Membership, SignIn, User
from app.errors import N_, Conflict

STATES = ("active", "disabled", "admin")


@dataclass
class Person:
    user: User
    seen_at: datetime | None = None  # when a browser of theirs was last used
    memberships: list[Membership] = field(default_factory=list)  # with `.workspace`


def search(
    db: Session, *, text: str = "", state: str = "", offset: int = 0, limit: int = 50
) -> tuple[list[Person], int]:
    """A page of those whose name or address holds `text`, newest first, and how many there are."""
    query = select(User).where(User.is_service.is_(False))
    if text:
        query = query.where(
            or_(
                User.email.icontains(text, autoescape=True),
                User.name.icontains(text, autoescape=True),
            )
        )
    if state == "disabled":
        query = query.where(User.disabled_at.is_not(None))
    elif state == "active":
        query = query.where(User.disabled_at.is_(None))
    elif state == "admin":
        query = query.where(User.is_platform_admin)
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    order = query.order_by(User.created_at.desc(), User.id).offset(offset).limit(limit)
    return whole(db, list(db.scalars(order))), total


def whole(db: Session, users: list[User]) -> list[Person]:
    ids = [user.id for user in users]
    latest = (
        select(SignIn.user_id, func.max(SignIn.seen_at))
        .where(SignIn.user_id.in_(ids))
        .group_by(SignIn.user_id)
    )
    seen = dict(db.execute(latest).all())
    found = {user.id: Person(user, seen.get(user.id)) for user in users}
    memberships = (
        select(Membership)
        .join(Membership.workspace)
        .options(contains_eager(Membership.workspace))
        .where(Membership.user_id.in_(ids))
        .order_by(Membership.created_at)
    )
    for row in db.scalars(memberships):
        found[row.user_id].memberships.append(row)
    return list(found.values())


def make_admin(db: Session, who: Principal, user_id: str, yes: bool = True) -> User:
    """Of the platform. Nobody takes it from themselves, so one is always left."""
    user = service.get_user(db, user_id)
    if not yes and user.id == who.user_id:
        raise Conflict(N_("Another platform admin has to take this from you."))
    if yes and user.disabled_at:
        raise Conflict(N_("This account is disabled."), code="disabled")
    user.is_platform_admin = yes
    return user
