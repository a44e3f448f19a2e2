"""Requests for more: a member asks, an administrator grants (as asked, or otherwise) or refuses."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.accounts.tables import User, Workspace
from app.db import new_id, now
from app.errors import N_, Conflict, Forbidden, Invalid, NotFound
from app.quotas import accounts, limits
from app.quotas.kinds import ASKED, MONEY
from app.quotas.money_tables import QuotaRequest

WAITING, APPROVED, REFUSED, WITHDRAWN = "waiting", "approved", "refused", "withdrawn"
CURRENCY = 8  # characters
MOST_WAITING = 20  # of one member at once


def ask(
    db: Session,
    who: Principal,
    *,
    name: str,
    amount: float,
    why: str,
    until: datetime | None = None,
    device: str = "",
    own: bool = False,
) -> QuotaRequest:
    """Ask for a limit of the workspace, or for one's own in it; or for a top-up of the balance, of
    which `device` is the currency. Raises Invalid.
    """
    kind = ASKED[name]
    if kind is MONEY:
        device, own, until = device or accounts.currency(db, who.workspace_id), False, None
        if amount <= 0:
            raise Invalid(N_("An amount is needed."), field="amount")
        if len(device) > CURRENCY:
            raise Invalid(N_("A currency is written as CNY or USD."), field="device")
    if until is not None and until <= now():
        raise Invalid(N_("This time is over already."), field="until")
    if amount > kind.most:
        raise Invalid(
            N_("A quota is a number from 0 to %(most)s, or empty for no limit."),
            field="amount",
            most=kind.most,
        )
    waiting = db.scalar(
        select(func.count()).where(
            QuotaRequest.user_id == who.user_id, QuotaRequest.state == WAITING
        )
    )
    if (waiting or 0) >= MOST_WAITING:
        raise Conflict(N_("%(most)s of your requests wait already."), most=MOST_WAITING)
    row = QuotaRequest(
        id=new_id("ask"),
        workspace_id=who.workspace_id,
        user_id=who.user_id,
        own=own,
        name=name,
        device=device if name in ("devices", MONEY.name) else "",
        amount=kind.stored(amount),
        until=until,
        why=why,
    )
    db.add(row)
    db.flush()
    return row


def seen_by(who: Principal) -> Any:
    """A platform admin sees all, a workspace's admin the workspace's, a member their own."""
    query = select(QuotaRequest, User, Workspace)
    query = query.join(User, User.id == QuotaRequest.user_id)
    query = query.join(Workspace, Workspace.id == QuotaRequest.workspace_id)
    if who.is_platform_admin:
        return query
    query = query.where(QuotaRequest.workspace_id == who.workspace_id)
    return query if who.may("admin") else query.where(QuotaRequest.user_id == who.user_id)


def listed(
    db: Session,
    who: Principal,
    *,
    state: str = "",
    here: bool = False,
    after: str = "",
    limit: int = 50,
) -> tuple[Sequence[tuple[QuotaRequest, User, Workspace]], bool]:
    """Newest first, and whether there are more. `here`: of the workspace in view alone."""
    seen = query = seen_by(who)
    if state:
        query = query.where(QuotaRequest.state == state)
    if here:
        query = query.where(QuotaRequest.workspace_id == who.workspace_id)
    query = paging.behind(db, query, seen, [QuotaRequest.created_at.desc()], QuotaRequest.id, after)
    found = list(db.execute(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def waiting_for(db: Session, who: Principal) -> int:
    """How many wait for a decision that `who` may make."""
    query = select(func.count()).where(QuotaRequest.state == WAITING)
    if not who.is_platform_admin:
        query = query.where(QuotaRequest.own, QuotaRequest.workspace_id == who.workspace_id)
    return db.scalar(query) or 0


def get(db: Session, who: Principal, request_id: str) -> QuotaRequest:
    """Locked. Raises NotFound."""
    row = db.scalar(
        select(QuotaRequest)
        .where(QuotaRequest.id == request_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    mine = row is not None and (
        who.is_platform_admin
        or (
            row.workspace_id == who.workspace_id
            and (who.may("admin") or row.user_id == who.user_id)
        )
    )
    if row is None or not mine:
        raise NotFound(N_("There is no such request."))
    return row


def decidable(db: Session, who: Principal, request_id: str) -> QuotaRequest:
    """Raises NotFound, Forbidden, and Conflict where it was decided already."""
    row = get(db, who, request_id)
    if not (who.is_platform_admin or (row.own and who.may("admin"))):
        raise Forbidden(N_("Only a platform administrator decides on a workspace's quota."))
    if row.state != WAITING:
        raise Conflict(N_("This request was decided already."))
    return row


def approve(
    db: Session,
    who: Principal,
    request_id: str,
    amount: float | None = None,
    until: datetime | None = None,
    answer: str = "",
) -> QuotaRequest:
    """Set the limit: as it was asked for, or `amount` and `until`. A balance is topped up."""
    row = decidable(db, who, request_id)
    kind = ASKED[row.name]
    row.granted = row.amount if amount is None else kind.stored(amount)
    if kind is MONEY:
        money = Decimal(row.granted) / kind.scale
        accounts.top_up(db, who, row.workspace_id, money, row.device, row.why[:200])
        return decide(db, who, row, APPROVED, answer)
    row.granted_until = until or row.until
    given: Any = kind.shown(row.granted)
    limits.change(
        db,
        row.workspace_id,
        row.user_id if row.own else None,
        {"devices_by_model": {row.device: given}} if row.device else {row.name: given},
        row.granted_until,
    )
    return decide(db, who, row, APPROVED, answer)


def refuse(db: Session, who: Principal, request_id: str, answer: str) -> QuotaRequest:
    """With a reason. Raises Invalid without one."""
    row = decidable(db, who, request_id)
    if not answer.strip():
        raise Invalid(N_("Say why, so that they know."), field="answer")
    return decide(db, who, row, REFUSED, answer)


def withdraw(db: Session, who: Principal, request_id: str) -> QuotaRequest:
    """By who asked."""
    row = get(db, who, request_id)
    if row.user_id != who.user_id:
        raise Forbidden(N_("Only who asked may withdraw a request."))
    if row.state != WAITING:
        raise Conflict(N_("This request was decided already."))
    return decide(db, who, row, WITHDRAWN, "")


def decide(db: Session, who: Principal, row: QuotaRequest, state: str, answer: str) -> QuotaRequest:
    row.state, row.answer = state, answer.strip()
    row.decided_by, row.decided_at = who.user_id, now()
    db.flush()
    return row
