"""How far budgets and balances are used up, what was said of it, and what calls hear then."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.errors import N_, Forbidden, TooMany
from app.quotas import accounts, free
from app.quotas.kinds import ASKED, MONEY
from app.quotas.money_tables import Stopped, Warned

BALANCE = MONEY.name
LEVELS = (80, 95, 100)  # percent


@dataclass(frozen=True)
class Measure:
    """A budget or a balance of a workspace, or of a member in it. `used` and `limit` as shown."""

    workspace_id: str
    user_id: str | None
    name: str  # of a limit, or balance
    period: str  # a level is told once in each
    used: Decimal
    limit: Decimal

    @property
    def level(self) -> int:
        """The highest of LEVELS that is reached, or 0."""
        percent = 100 * self.used / self.limit if self.limit > 0 else Decimal(100)
        return max((level for level in LEVELS if percent >= level), default=0)


def tell(db: Session, measure: Measure) -> list[int]:
    """Write down the levels that are reached, once each; those that are new. A level that is no
    longer reached, as the limit was raised, is taken back.
    """
    here = [
        Warned.workspace_id == measure.workspace_id,
        Warned.user_id.is_not_distinct_from(measure.user_id),
        Warned.name == measure.name,
        Warned.period == measure.period,
    ]
    db.execute(delete(Warned).where(*here, Warned.level > measure.level))
    new = []
    for level in LEVELS:
        if level <= measure.level:
            values: dict[str, Any] = vars(measure) | {"id": new_id("warn"), "level": level}
            made = db.scalar(
                insert(Warned)
                .values(**values, at=now())
                .on_conflict_do_nothing(constraint="uq_quota_warnings_of")
                .returning(Warned.level)
            )
            if made:
                new.append(level)
    return new


def forget(db: Session, measures: Sequence[Measure]) -> None:
    """What was written down of periods that are over, and of limits that are no more, goes."""
    still = {(one.workspace_id, one.user_id, one.name, one.period) for one in measures}
    for row in db.scalars(select(Warned).execution_options(populate_existing=True)).all():
        if (row.workspace_id, row.user_id, row.name, row.period) not in still:
            db.delete(row)
    db.flush()


@dataclass(frozen=True)
class Near:
    """A budget or a balance that is nearly used up, or is: the highest level that it reached."""

    name: str
    own: bool  # the reader's limit in the workspace, not the workspace's
    level: int
    currency: str  # of a balance
    key: str  # of this level in this period: who has seen it need not see it again

    @property
    def label(self) -> str:
        return ASKED[self.name].label


def near(db: Session, workspace_id: str, user_id: str) -> list[Near]:
    """Of a workspace, and of one member's own limits in it; the worst first. One query, by index."""
    rows = db.scalars(
        select(Warned)
        .where(
            Warned.workspace_id == workspace_id,
            or_(Warned.user_id.is_(None), Warned.user_id == user_id),
        )
        .order_by(Warned.level.desc(), Warned.name)
    )
    found: dict[tuple[str, str | None, str], Near] = {}
    for row in rows:
        is_balance = row.name == BALANCE
        parts = (row.name, row.user_id or "", row.period, str(row.level))
        found.setdefault(
            (row.name, row.user_id, row.period),
            Near(
                row.name,
                row.user_id is not None,
                row.level,
                row.period.partition(" ")[0] if is_balance else "",
                hashlib.sha256("/".join(parts).encode()).hexdigest()[:12],
            ),
        )
    return list(found.values())


def stopped(db: Session, workspace_id: str | None = None) -> Sequence[Stopped]:
    query = select(Stopped).order_by(Stopped.at, Stopped.owner_id)
    if workspace_id:
        query = query.where(Stopped.workspace_id == workspace_id)
    return db.scalars(query.execution_options(populate_existing=True)).all()


def refuse_call(db: Session, workspace_id: str, models: Sequence[Sequence[str]]) -> None:
    """What a call costs must be allowed: raises OutOfMoney; TooMany where a month's budget is used
    up; Forbidden where nothing free is left of all of `models` (a model and its base each) and the
    workspace wants to pay nothing.
    """
    accounts.refuse_if_out(db, workspace_id)
    month = f"{now():%Y-%m}"
    spent = db.scalar(
        select(Warned.name)
        .where(
            Warned.workspace_id == workspace_id,
            Warned.user_id.is_(None),
            Warned.name.in_(("device_hours_month", "device_hours_day")),
            Warned.period.in_((month, f"{now():%Y-%m-%d}")),
            Warned.level == 100,
        )
        .limit(1)
    )
    if spent:
        raise TooMany(
            N_(
                "The GPU-hours of this workspace are used up for now. Ask for more, or come again "
                "when the day or the month begins anew (UTC)."
            ),
            code="insufficient_quota",
            retry_after=3600,
        )
    if models and all(free.exhausted(db, workspace_id, ids) for ids in models):
        raise Forbidden(
            N_(
                "The free quota of this model is used up, and this workspace has chosen to stop "
                "then. An administrator of the workspace can change that on the usage page."
            ),
            code="free_quota_exhausted",
        )


def period_of(name: str, at: datetime) -> str:
    return f"{at:%Y-%m-%d}" if name.endswith("_day") else f"{at:%Y-%m}"
