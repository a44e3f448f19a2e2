"""What is used and left of every limit: of a workspace, or of a member in it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import budgets
from app.cluster.tables import Lease
from app.db import now
from app.deployments.tables import Deployment
from app.quotas import limits, stored
from app.quotas.kinds import KINDS
from app.quotas.limits import NO_LIMIT
from app.quotas.tables import Reservation, Usage


@dataclass(frozen=True)
class Use:
    """One limit, as shown: hours, not milliseconds."""

    name: str
    label: str  # msgid
    used: int | float
    reserved: int | float
    limit: int | float | None
    source: str
    until: datetime | None  # when the limit ends
    renews: datetime | None  # when the count begins anew
    device: str = ""

    @property
    def share(self) -> float:
        """Of the limit, with what is reserved; 0 without one."""
        if self.limit is None:
            return 0.0
        return (self.used + self.reserved) / self.limit if self.limit else 1.0


def of(db: Session, workspace_id: str, user_id: str | None = None) -> list[Use]:
    """Every kind, with or without a limit, in the order of `KINDS`; then devices by type."""
    if user_id:
        found = limits.of_member(db, workspace_id, user_id)
    else:
        found = limits.effective(db, workspace_id)
    counted = {name: (one, 0) for name, one in counts(db, workspace_id, user_id).items()}
    renewing = {}
    for name in (budgets.DAY, budgets.MONTH):
        period = budgets.Period.of(name, now())
        counted[name] = (
            budgets.used(db, workspace_id, user_id, period),
            budgets.reserved(db, workspace_id, user_id, period),
        )
        renewing[name] = period.end
    renewing["tokens_month"] = renewing[budgets.MONTH]
    rows = []
    for name, kind in KINDS.items():
        limit = found.get((name, ""), NO_LIMIT)
        used, reserved = counted.get(name, (0, 0))
        rows.append(
            Use(
                name,
                kind.label,
                kind.shown(used),
                kind.shown(reserved),
                None if limit.amount is None else kind.shown(limit.amount),
                limit.source,
                limit.until,
                renewing.get(name),
            )
        )
    held = by_model(db, workspace_id, user_id)
    for (name, device), limit in found.items():
        if device and limit.amount is not None:
            label = KINDS[name].label
            args = (held.get(device, 0), 0, limit.amount, limit.source, limit.until, None, device)
            rows.append(Use(name, label, *args))
    return rows


def counts(db: Session, workspace_id: str, user_id: str | None) -> dict[str, int]:
    """What is counted in ones: devices, jobs, deployments, bytes, tokens."""
    month = budgets.Period.of(budgets.MONTH, now())

    def ask(what: object, table: type, who: object, *where: object) -> int:
        query = select(what).where(table.workspace_id == workspace_id, *where)  # type: ignore[call-overload,attr-defined]
        if user_id:
            query = query.where(who == user_id)
        return int(db.scalar(query) or 0)

    tokens = func.sum(Usage.prompt_tokens + Usage.completion_tokens)
    calls = (Usage.workspace_id, Usage.kind == "tokens")
    waiting = Reservation.waiting.is_
    job = Reservation.owner_kind == "job"
    return {
        "devices": ask(func.count(), Lease, Lease.user_id, Lease.released_at.is_(None)),
        "running_jobs": ask(func.count(), Reservation, Reservation.user_id, job, waiting(False)),
        "queued_jobs": ask(func.count(), Reservation, Reservation.user_id, job, waiting(True)),
        "deployments": ask(
            func.count(), Deployment, Deployment.created_by, Deployment.deleted_at.is_(None)
        ),
        "storage_bytes": stored.used(db, workspace_id, user_id),
        "tokens_minute": ask(
            tokens, Usage, Usage.user_id, calls[1], Usage.at >= now() - budgets.MINUTE
        ),
        "tokens_month": ask(tokens, Usage, Usage.user_id, calls[1], Usage.at >= month.start),
    }


def by_model(db: Session, workspace_id: str, user_id: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in budgets.live(db, workspace_id, user_id):
        found[one.device.model] = found.get(one.device.model, 0) + 1
    return found
