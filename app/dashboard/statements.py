"""A month's usage of a workspace and what it cost, by job and deployment, key, member, model or day.

From the ledger and its charges, which are exact: a figure is rounded once, when it is shown, half
to even. A total is rounded from the exact sum, not summed from rounded lines.
"""

import csv
import io
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import Session

from app.accounts.tables import ApiKey, User, Workspace
from app.db import now
from app.deployments.tables import Deployment, Replica
from app.errors import N_, Invalid
from app.jobs.tables import Job
from app.models.tables import Model
from app.quotas.charging import CENT, FINE, money
from app.quotas.kinds import HOUR
from app.quotas.money_tables import Charge
from app.quotas.service import month_of
from app.quotas.tables import Usage

By = Literal["item", "key", "member", "model", "day"]
BYS: tuple[By, ...] = get_args(By)
LABELS: dict[str, str] = {
    "item": N_("Job or deployment"),
    "key": N_("API key"),
    "member": N_("Member"),
    "model": N_("Model"),
    "day": N_("Day"),
}
MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


@dataclass
class Line:
    """What one of them used. `parts`: currency → exact cost, see `quotas.charging`."""

    key: str
    kind: str  # job, deployment, key, member, model, day
    name: str
    requests: int = 0
    device_ms: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    trained_tokens: int = 0
    parts: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    @property
    def device_hours(self) -> Decimal:
        return (Decimal(self.device_ms) / HOUR).quantize(Decimal("0.0001"))

    def cost(self, currency: str, places: Decimal = FINE) -> Decimal:
        return money(self.parts.get(currency, Decimal(0)), places)


@dataclass
class Statement:
    workspace: Workspace
    month: str
    by: By
    start: datetime
    end: datetime
    lines: list[Line]
    total: Line

    @property
    def currencies(self) -> list[str]:
        return sorted(self.total.parts)

    @property
    def before(self) -> str:
        return f"{self.start - timedelta(days=1):%Y-%m}"

    @property
    def after(self) -> str:
        return f"{self.end:%Y-%m}" if self.end <= now() else ""

    def sum(self, currency: str) -> Decimal:
        """To the cent."""
        return self.total.cost(currency, CENT)


SUMS = ("device_ms", "prompt_tokens", "cached_tokens", "completion_tokens", "trained_tokens")
COUNTS = ("requests", *SUMS)


def of(
    db: Session, workspace: Workspace, month: str = "", by: By = "item", user_id: str | None = None
) -> Statement:
    """Of a month such as 2026-11 (UTC), by default this one. `user_id`: of that member alone.

    Raises Invalid for a month that is none.
    """
    start, end = bounds(month or f"{now():%Y-%m}")
    where = [Usage.workspace_id == workspace.id, Usage.at >= start, Usage.at < end]
    if user_id:
        where.append(Usage.user_id == user_id)
    kind, key = grouped(by)
    kind, key = kind.label("kind"), key.label("key")
    lines: dict[tuple[str, str], Line] = {}
    sums = [func.coalesce(func.sum(getattr(Usage, name)), 0).label(name) for name in SUMS]
    replicas = Replica.id == Usage.owner_id
    asked = func.count().filter(Usage.kind == "tokens").label("requests")
    for row in db.execute(
        select(kind, key, asked, *sums)
        .select_from(Usage)
        .outerjoin(Replica, replicas)
        .where(*where)
        .group_by(kind, key)
    ):
        counts: dict[str, Any] = {name: int(getattr(row, name)) for name in COUNTS}
        lines[row.kind, row.key or ""] = Line(row.key or "", row.kind, "", **counts)
    for row in db.execute(
        select(kind, key, Charge.currency, func.sum(Charge.parts).label("parts"))
        .select_from(Usage)
        .outerjoin(Replica, replicas)
        .join(Charge, Charge.usage_id == Usage.id)
        .where(*where, Charge.currency != "")
        .group_by(kind, key, Charge.currency)
    ):
        lines[row.kind, row.key or ""].parts[row.currency] = row.parts
    found = list(lines.values())
    name_all(db, found)
    found.sort(key=lambda one: one.key if by == "day" else (-sum(one.parts.values()), one.name))
    return Statement(workspace, f"{start:%Y-%m}", by, start, end, found, total(found))


def bounds(month: str) -> tuple[datetime, datetime]:
    match = MONTH.fullmatch(month)
    if not match or not 2000 <= int(match[1]) <= 9998:
        raise Invalid(N_("A month is written as in 2026-11."), field="month")
    return month_of(datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC))


def grouped(by: By) -> tuple[ColumnElement[str], ColumnElement[str]]:
    """The kind and the id of what a row of the ledger counts for."""
    if by == "item":
        kind = case((Usage.owner_kind == "job", "job"), else_="deployment")
        return kind, func.coalesce(Replica.deployment_id, Usage.owner_id)
    if by == "day":
        return literal("day"), func.to_char(func.timezone("UTC", Usage.at), "YYYY-MM-DD")
    column: Any = {"key": Usage.api_key_id, "member": Usage.user_id, "model": Usage.model_id}[by]
    return literal(by), func.coalesce(column, "")


def name_all(db: Session, lines: list[Line]) -> None:
    """What they are called; who is gone keeps the id."""
    tables: dict[str, Any] = {
        "job": Job, "deployment": Deployment, "key": ApiKey, "member": User, "model": Model,
    }  # fmt: skip
    for kind, table in tables.items():
        ids = {line.key for line in lines if line.kind == kind and line.key}
        rows = db.execute(select(table.id, table.name).where(table.id.in_(ids))) if ids else ()
        names = dict(rows.all()) if ids else {}  # type: ignore[union-attr]
        for line in lines:
            if line.kind == kind:
                line.name = names.get(line.key, line.key)
    for line in lines:
        if line.kind == "day":
            line.name = line.key


def total(lines: list[Line]) -> Line:
    found = Line("", "total", "")
    for line in lines:
        for name in COUNTS:
            setattr(found, name, getattr(found, name) + getattr(line, name))
        for currency, parts in line.parts.items():
            found.parts[currency] += parts
    return found


# -- as a file ---------------------------------------------------------------------------

COLUMNS = (
    N_("Month"), N_("Workspace"), N_("Kind"), "ID", N_("Name"), N_("GPU-hours"), N_("Requests"),
    N_("Input tokens"), N_("Of these cached"), N_("Output tokens"), N_("Trained tokens"),
)  # fmt: skip


def as_csv(found: Statement, say: Any) -> str:
    """With headers in the language of `say`. A text that a spreadsheet would take for a formula
    gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    cost = say(N_("Cost"))
    writer.writerow(
        [*map(say, COLUMNS), *(f"{cost} ({currency})" for currency in found.currencies)]
    )
    for line in [*found.lines, found.total]:
        name = say(N_("Total")) if line.kind == "total" else line.name or say(N_("none"))
        writer.writerow(
            [
                found.month,
                plain(found.workspace.name),
                plain(say(KIND_WORDS.get(line.kind, line.kind))),
                plain(line.key),
                plain(name),
                f"{line.device_hours:f}",
                line.requests,
                line.prompt_tokens,
                line.cached_tokens,
                line.completion_tokens,
                line.trained_tokens,
                *(
                    f"{line.cost(one, CENT if line.kind == 'total' else FINE):f}"
                    for one in found.currencies
                ),
            ]
        )
    return "\ufeff" + out.getvalue()


KIND_WORDS = {
    "job": N_("Job"),
    "deployment": N_("Deployment"),
    "key": N_("API key"),
    "member": N_("Member"),
    "model": N_("Model"),
    "day": N_("Day"),
    "total": N_("Total"),
}


def plain(text: str) -> str:
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "\t", "\r", "|") else text
