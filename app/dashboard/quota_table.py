"""The table in which quotas are edited in place: one row a workspace (or a member), one column a
limit. A cell is empty where what is inherited counts, and ∞ where there is no limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.accounts.tables import Membership, User, Workspace
from app.db import now
from app.errors import N_, Invalid
from app.quotas import limits
from app.quotas.kinds import KINDS, Kind
from app.quotas.tables import Quota

UNLIMITED = "∞"
PAGE = 50
DEFAULT = "default"  # the row of the platform's default
GIB = 2**30


@dataclass
class Cell:
    """`text`: one's own limit as typed; `inherited`: what counts while it is empty."""

    text: str = ""
    inherited: str = UNLIMITED
    until: datetime | None = None  # a raise that counts until then
    raised: str = ""


@dataclass
class Row:
    id: str
    name: str
    cells: dict[str, Cell] = field(default_factory=dict)


def text_of(kind: Kind, amount: int | None) -> str:
    if amount is None:
        return UNLIMITED
    if kind.name == "storage_bytes":
        return f"{amount / GIB:g}"
    return f"{kind.shown(amount):g}" if kind.scale > 1 else str(amount)


def read(kind: Kind, text: str) -> Any:
    """An amount as `limits.change` takes it. Raises Invalid."""
    text = text.strip().replace(",", "")
    if not text:
        return limits.INHERIT
    if text.lower() in (UNLIMITED, "none", "inf"):
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = -1
    whole = kind.name not in ("device_hours_day", "device_hours_month", "storage_bytes", "balance")
    if not 0 <= amount <= kind.most or (whole and not amount.is_integer()):
        raise Invalid(
            N_("A number, or ∞ for no limit; empty takes what is inherited."), field="amount"
        )
    if kind.name == "storage_bytes":
        return round(amount * GIB)
    return int(amount) if whole else amount


def rows(
    db: Session, whose: Sequence[tuple[str, str]], workspace_id: str | None = None
) -> list[Row]:
    """Of workspaces, (id, name) each; with `workspace_id` of its members."""
    ids = [one for one, _ in whose]
    column = Quota.user_id if workspace_id else Quota.workspace_id
    here = Quota.workspace_id == workspace_id if workspace_id else Quota.user_id.is_(None)
    default = Quota.workspace_id.is_(None) & Quota.user_id.is_(None)
    mine = here & column.in_(ids)
    own: dict[str, dict[str, Quota]] = {}
    raised: dict[str, dict[str, Quota]] = {}
    for row in db.scalars(select(Quota).where(or_(mine, default), Quota.device == "")):
        who = row.user_id if workspace_id else row.workspace_id
        if not row.temporary:
            own.setdefault(who or DEFAULT, {})[row.name] = row
        elif row.until and row.until > now():
            raised.setdefault(who or DEFAULT, {})[row.name] = row
    above = limits.effective(db, workspace_id)
    found = []
    for one, name in whose:
        line = Row(one, name)
        for kind in KINDS.values():
            top = above.get((kind.name, ""), limits.NO_LIMIT)
            cell = Cell(inherited=text_of(kind, top.amount))
            if (mine_row := own.get(one, {}).get(kind.name)) is not None:
                cell.text = text_of(kind, mine_row.amount)
            if (raise_row := raised.get(one, {}).get(kind.name)) is not None:
                cell.raised, cell.until = text_of(kind, raise_row.amount), raise_row.until
            line.cells[kind.name] = cell
        found.append(line)
    return found


def workspaces(db: Session, q: str = "", offset: int = 0) -> tuple[list[tuple[str, str]], bool]:
    """(id, name), a page of them by name, and whether there are more."""
    query = select(Workspace.id, Workspace.name).order_by(Workspace.name, Workspace.id)
    if q:
        query = query.where(Workspace.name.icontains(q, autoescape=True))
    found = [(one, name) for one, name in db.execute(query.offset(offset).limit(PAGE + 1))]
    return found[:PAGE], len(found) > PAGE


def members(db: Session, workspace_id: str) -> list[tuple[str, str]]:
    query = (
        select(User.id, User.name, User.email)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.workspace_id == workspace_id)
        .order_by(User.name, User.id)
        .limit(100)
    )
    return [(one, f"{name} · {email}") for one, name, email in db.execute(query)]


def save(
    db: Session,
    whose: Sequence[tuple[str, str]],
    typed: Mapping[str, Any],
    workspace_id: str | None = None,
) -> dict[str, Invalid]:
    """Set what was typed otherwise than it stands (`row:limit` each); or with `set` one limit of
    all that are selected. Nothing is set where something is wrong: field → error.
    """
    wanted: list[tuple[str, str, Any]] = []
    errors: dict[str, Invalid] = {}
    until = None
    if typed.get("act") == "set":
        selected = typed.get("row", [])
        chosen = [selected] if isinstance(selected, str) else list(selected)
        known = {one for one, _ in whose}
        name = str(typed.get("name", ""))
        try:
            until = end_of(str(typed.get("until", "")))
            if name not in KINDS or not known & set(chosen):
                return {"amount": Invalid(N_("Select rows and a limit."), field="amount")}
            amount = read(KINDS[name], str(typed.get("amount", "")))
            wanted = [(one, name, amount) for one in chosen if one in known]
        except Invalid as error:
            errors[error.field or "amount"] = error
    else:
        for line in rows(db, whose, workspace_id):
            for name, cell in line.cells.items():
                text = str(typed.get(f"{line.id}:{name}", "")).strip()
                if text != cell.text:
                    try:
                        wanted.append((line.id, name, read(KINDS[name], text)))
                    except Invalid as error:
                        errors[f"{line.id}:{name}"] = error
    if not errors:
        for one, name, amount in wanted:
            space = workspace_id or (None if one == DEFAULT else one)
            limits.change(db, space, one if workspace_id else None, {name: amount}, until)
    return errors


def end_of(text: str) -> datetime | None:
    """The end of a day (UTC), as a date field has it. Raises Invalid."""
    if not text:
        return None
    try:
        day = datetime.fromisoformat(f"{text[:10]}T23:59:59+00:00")
    except ValueError:
        raise Invalid(N_("A day is written as in 2026-11-30."), field="until") from None
    if day <= now():
        raise Invalid(N_("This time is over already."), field="until")
    return day
