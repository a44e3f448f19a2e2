"""Limits of a workspace, and the ledger. What is held just now is `app.cluster`'s to say."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnDefault, func, or_, select, text
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.accounts.tables import Membership, Workspace
from app.db import now
from app.errors import N_, Forbidden, NotFound
from app.quotas import charging
from app.quotas import limits as limits_of
from app.quotas.tables import Usage

MOST_DEVICES = 100_000


def limit(db: Session, workspace_id: str) -> int | None:
    """How many devices the workspace may hold at once, of any kind; None is no limit."""
    return limits_of.concurrent(db).workspace(workspace_id).devices


def limits(db: Session) -> dict[str, int]:
    """Workspace id → how many devices at once, for those that have a limit."""
    found = limits_of.concurrent(db)
    ids = db.scalars(select(Workspace.id))
    return {one: most for one in ids if (most := found.workspace(one).devices) is not None}


def workspace(db: Session, who: Principal, id_or_slug: str) -> Workspace:
    """The workspace whose quota `who` may see: their own, or any for a platform admin.

    Raises NotFound.
    """
    found = db.scalar(
        select(Workspace).where(or_(Workspace.id == id_or_slug, Workspace.slug == id_or_slug))
    )
    if found is None or not (who.is_platform_admin or found.id == who.workspace_id):
        raise NotFound(N_("There is no such workspace."))
    return found


def workspaces(
    db: Session, q: str = "", after: str = "", limit: int = 50
) -> tuple[list[Workspace], bool]:
    """Of everybody, by name, and whether there are more. `q`: a part of the name."""
    seen = query = select(Workspace)
    if q:
        query = query.where(Workspace.name.icontains(q, autoescape=True))
    query = paging.behind(db, query, seen, [Workspace.name], Workspace.id, after)
    found = list(db.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def member(
    db: Session, who: Principal, id_or_slug: str, user_id: str, *, reads: bool = False
) -> Workspace:
    """The workspace in which `who` may change (or see: `reads`) the quota of this member: its
    admins and platform admins, and everybody sees their own. Raises NotFound, Forbidden.
    """
    found = workspace(db, who, id_or_slug)
    if db.get(Membership, (found.id, user_id)) is None:
        raise NotFound(N_("There is no such member."))
    leads = who.is_platform_admin or (found.id == who.workspace_id and who.may("admin"))
    if not leads and not (reads and user_id == who.user_id):
        raise Forbidden(N_("Only the workspace's admins may do this."))
    return found


def put(db: Session, workspace_id: str, devices: int | None) -> None:
    """Set how many devices at once; None lifts the limit. What is held already stays held: a lower
    limit lets running work end, and holds back what asks next. Raises Invalid.
    """
    limits_of.change(db, workspace_id, None, {"devices": devices})


def record(db: Session, rows: list[dict[str, Any]]) -> None:
    """Append to the ledger, with what it costs. A row whose id is there already is left as it is."""
    if rows:
        full = {row["id"]: DEFAULTS | {"at": now()} | row for row in rows}
        new = db.scalars(RECORD, {"rows": orjson.dumps(list(full.values())).decode()}).all()
        charging.charge(db, [full[one] for one in new])


# one statement for all, which the database takes apart: many rows cost this process little
RECORD = text(
    "INSERT INTO usage SELECT * FROM jsonb_populate_recordset(NULL::usage, CAST(:rows AS jsonb))"
    " ON CONFLICT (id) DO NOTHING RETURNING id"
)
DEFAULTS = {
    column.name: column.default.arg
    for column in Usage.__table__.columns
    if isinstance(column.default, ColumnDefault) and column.default.is_scalar
}


def midnight() -> datetime:
    """Today's, UTC: where the day of a key's daily tokens begins."""
    return now().replace(hour=0, minute=0, second=0, microsecond=0)


def month_of(at: datetime) -> tuple[datetime, datetime]:
    """Where the month of `at`, a midnight, begins, and the next one."""
    start = at.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def tokens_of_key(
    db: Session, key_id: str, unrecorded: Mapping[str, dict[str, Any]]
) -> tuple[int, int]:
    """Tokens of an API key: today, and ever. `unrecorded`: id → row, which may be recorded too."""
    tokens = Usage.prompt_tokens + Usage.completion_tokens
    today, ever = db.execute(
        select(
            func.coalesce(func.sum(tokens).filter(Usage.at >= midnight()), 0),
            func.coalesce(func.sum(tokens), 0),
        ).where(Usage.api_key_id == key_id, Usage.id.not_in(list(unrecorded)))
    ).one()
    for row in unrecorded.values():
        count = row["prompt_tokens"] + row["completion_tokens"]
        ever += count
        if datetime.fromisoformat(row["at"]) >= midnight():
            today += count
    return int(today), int(ever)


def tokens_of_month(
    db: Session, workspace_id: str, user_id: str | None, unrecorded: Mapping[str, dict[str, Any]]
) -> int:
    """Tokens that models were called with this month (UTC): by the workspace, or by one member in
    it. `unrecorded`: id → row, which may be recorded too.
    """
    start, _ = month_of(midnight())
    query = select(func.coalesce(func.sum(Usage.prompt_tokens + Usage.completion_tokens), 0)).where(
        Usage.workspace_id == workspace_id,
        Usage.kind == "tokens",
        Usage.at >= start,
        Usage.id.not_in(list(unrecorded)),
    )
    if user_id:
        query = query.where(Usage.user_id == user_id)
    late = sum(
        row["prompt_tokens"] + row["completion_tokens"]
        for row in unrecorded.values()
        if datetime.fromisoformat(row["at"]) >= start
    )
    return int(db.scalar(query) or 0) + int(late)


def ended_lately(db: Session, span: timedelta, **whose: str) -> list[str]:
    """Requests that ended within this span, at most a day after they began. `whose`: columns."""
    ended = Usage.at + func.coalesce(Usage.duration_ms, 0) * timedelta(milliseconds=1)
    query = select(Usage.id).where(Usage.at >= now() - timedelta(days=1), ended >= now() - span)
    return list(db.scalars(query.where(Usage.kind == "tokens").filter_by(**whose)))


@dataclass(frozen=True)
class KeyUse:
    """What the ledger says of one API key."""

    requests: int = 0  # in the last minute
    tokens: int = 0  # in the last minute
    today: int = 0  # tokens since midnight, UTC
    total: int = 0  # tokens ever


def use_of_key(db: Session, key_id: str) -> KeyUse:
    """What was used of it; a second late."""
    tokens = Usage.prompt_tokens + Usage.completion_tokens
    lately = Usage.at >= now() - timedelta(minutes=1)
    found = db.execute(
        select(
            func.count().filter(lately),
            func.coalesce(func.sum(tokens).filter(lately), 0),
            func.coalesce(func.sum(tokens).filter(Usage.at >= midnight()), 0),
            func.coalesce(func.sum(tokens), 0),
        ).where(Usage.api_key_id == key_id)
    ).one()
    return KeyUse(*map(int, found))
