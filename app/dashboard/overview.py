"""The administrators' overview: how full, who uses it, who waits, what failed, what idles, what it costs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.alerts.tables import Alert
from app.cluster import overview as cluster
from app.dashboard import devices
from app.dashboard.devices import Cluster, Owner
from app.db import now
from app.deployments.tables import Deployment
from app.jobs.tables import Job
from app.quotas.charging import WHOLE
from app.quotas.money_tables import Charge
from app.quotas.service import midnight
from app.quotas.tables import Usage

TODAY = timedelta(hours=24)
UNCALLED = timedelta(hours=1)  # a ready deployment nobody called for so long holds devices idly
MOST = 500  # rows of a list
HOUR = 3_600_000  # milliseconds


@dataclass(frozen=True)
class Failure:
    """A job or a deployment that broke."""

    kind: str
    id: str
    name: str
    workspace_id: str
    workspace: str
    error: dict[str, Any] | None
    at: datetime | None


@dataclass(frozen=True)
class Idle:
    """Somebody who holds devices and does nothing with them."""

    kind: str
    id: str
    name: str
    workspace_id: str
    workspace: str
    since: datetime
    devices: tuple[str, ...]  # that do nothing; empty: nobody has called the deployment


@dataclass(frozen=True)
class Use:
    """What a workspace has and had of the devices, and what it cost, by currency."""

    workspace_id: str
    name: str
    held: int
    limit: int | None
    waiting: int
    hours: float  # device hours since midnight, UTC
    today: dict[str, Decimal]
    month: dict[str, Decimal]


@dataclass
class Overview:
    cluster: Cluster
    waiting: list[dict[str, Any]]
    owners: dict[str, Owner]
    use: list[Use]
    failed: list[Failure]
    idle: list[Idle]
    alerts: int  # that fire now

    @property
    def counts(self) -> Counter[str]:
        return self.cluster.counts

    @property
    def busy(self) -> float | None:
        """The mean use of what is held, in percent; None where no device tells it."""
        told = [
            float(device["stats"]["use"])
            for device in self.cluster.devices
            if device["holders"] and "use" in device["stats"]
        ]
        return sum(told) / len(told) if told else None

    @property
    def asked(self) -> int:
        """Devices that are waited for."""
        return sum(item["devices"] for item in self.waiting)

    @property
    def today(self) -> dict[str, Decimal]:
        return total(one.today for one in self.use)

    @property
    def month(self) -> dict[str, Decimal]:
        return total(one.month for one in self.use)


def total(amounts: Any) -> dict[str, Decimal]:
    """The sum of amounts by currency."""
    found: dict[str, Decimal] = {}
    for one in amounts:
        for currency, value in one.items():
            found[currency] = found.get(currency, Decimal(0)) + value
    return found


def overview(db: Session) -> Overview:
    seen = cluster.overview(db)
    gathered = devices.gathered(db, seen["nodes"])
    waiting = devices.owners(db, (item["owner_id"] for item in seen["waiting"]))
    return Overview(
        cluster=gathered,
        waiting=seen["waiting"],
        owners=gathered.owners | waiting,
        use=use(db),
        failed=failed(db),
        idle=idle(db, gathered),
        alerts=firing(db),
    )


def listed(db: Session, name: str) -> dict[str, Any]:
    """One list, whole, and nothing else: its `rows`, and `owners` of what waits."""
    if name == "use":
        return {"rows": use(db)}
    if name == "failed":
        return {"rows": failed(db)}
    if name == "waiting":
        rows = cluster.waiting(db)
        return {"rows": rows, "owners": devices.owners(db, (item["owner_id"] for item in rows))}
    return {"rows": idle(db, devices.gathered(db, cluster.nodes(db)))}


def firing(db: Session) -> int:
    found = db.scalar(select(func.count()).where(Alert.resolved_at.is_(None)))
    return found or 0


def use(db: Session) -> list[Use]:
    """Every workspace, who used most today first."""
    hours = {
        workspace_id: float(ms) / HOUR
        for workspace_id, ms in db.execute(
            select(Usage.workspace_id, func.sum(Usage.device_ms))
            .where(Usage.kind == "device", Usage.at >= midnight())
            .group_by(Usage.workspace_id)
        )
    }
    today, month = costs(db, midnight()), costs(db, midnight().replace(day=1))
    found = [
        Use(
            workspace_id=row["workspace_id"],
            name=row["name"],
            held=row["held"],
            limit=row["limit"],
            waiting=row["waiting"],
            hours=hours.get(row["workspace_id"], 0.0),
            today=today.get(row["workspace_id"], {}),
            month=month.get(row["workspace_id"], {}),
        )
        for row in cluster.limits(db)
    ]
    return sorted(found, key=lambda one: (-one.held, -one.hours, one.name))


def costs(db: Session, since: datetime) -> dict[str, dict[str, Decimal]]:
    """Workspace → currency → what was charged since, devices and tokens together."""
    found: dict[str, dict[str, Decimal]] = {}
    rows = db.execute(
        select(Charge.workspace_id, Charge.currency, func.sum(Charge.parts))
        .where(Charge.at >= since, Charge.currency != "")
        .group_by(Charge.workspace_id, Charge.currency)
    )
    for workspace_id, currency, parts in rows:
        found.setdefault(workspace_id, {})[currency] = parts / WHOLE
    return found


def failed(db: Session) -> list[Failure]:
    """Jobs that failed in the last day, and deployments that are in error, the newest first."""
    jobs = (
        select(Job, Workspace.name)
        .join(Workspace, Workspace.id == Job.workspace_id)
        .where(Job.state == "failed", Job.finished_at > now() - TODAY)
        .order_by(Job.finished_at.desc())
        .limit(MOST)
    )
    broken = (
        select(Deployment, Workspace.name)
        .join(Workspace, Workspace.id == Deployment.workspace_id)
        .where(Deployment.state.in_(("error", "unhealthy")), Deployment.deleted_at.is_(None))
        .order_by(Deployment.created_at.desc())
        .limit(MOST)
    )
    found = [
        Failure("job", job.id, job.name, job.workspace_id, space, job.error, job.finished_at)
        for job, space in db.execute(jobs)
    ]
    found += [
        Failure("deployment", one.id, one.name, one.workspace_id, space, one.error, None)
        for one, space in db.execute(broken)
    ]
    return found


def idle(db: Session, seen: Cluster) -> list[Idle]:
    """Who holds a device that has done nothing for a while, and deployments that nobody calls."""
    found: dict[str, Idle] = {}
    for node, device, holder in held(seen):
        owner = seen.owners.get(holder["owner_id"])
        if holder["idle"] is None or owner is None:
            continue
        before = found.get(owner.id)
        found[owner.id] = Idle(
            owner.kind,
            owner.id,
            owner.name,
            holder["workspace_id"],
            holder["workspace"],
            holder["active_at"] or holder["since"],
            (*(before.devices if before else ()), f"{node['id']} {device['name']}"),
        )
    for deployment, space in uncalled(db):
        if deployment.id not in found and deployment.ready_at:
            found[deployment.id] = Idle(
                "deployment",
                deployment.id,
                deployment.name,
                deployment.workspace_id,
                space,
                deployment.ready_at,
                (),
            )
    return sorted(found.values(), key=lambda one: one.since)


def held(seen: Cluster) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """(node, device, holder) of everything that is held."""
    for node in seen.nodes:
        for device in node["devices"]:
            for holder in device["holders"]:
                yield node, device, holder


def uncalled(db: Session) -> list[tuple[Deployment, str]]:
    """Ready for more than an hour, and nobody called them in that hour; with their workspaces."""
    since = now() - UNCALLED
    called = select(Usage.owner_id).where(Usage.owner_kind == "deployment", Usage.at > since)
    query = (
        select(Deployment, Workspace.name)
        .join(Workspace, Workspace.id == Deployment.workspace_id)
        .where(
            Deployment.state == "ready",
            Deployment.deleted_at.is_(None),
            Deployment.ready_at < since,
            Deployment.id.not_in(called),
        )
        .order_by(Deployment.ready_at)
        .limit(MOST)
    )
    return [(deployment, space) for deployment, space in db.execute(query)]
