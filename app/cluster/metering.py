"""Leases as the ledger has them: device time, to the millisecond, written as it passes.

A lease that lasts is written piece by piece, so that each piece lies in the day that it is counted
and priced in. A share of a device counts as that share of its time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.cluster.tables import Device, Lease
from app.quotas import service as quotas
from app.quotas.tables import Reservation

TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Live:
    """Device time of a lease that is not in the ledger yet."""

    lease: Lease
    device: Device

    @property
    def since(self) -> datetime:
        return self.lease.metered_at or self.lease.created_at

    def ms(self, start: datetime, end: datetime) -> int:
        """Milliseconds x share of the device, of what lies between."""
        seconds = max(0.0, (end - max(start, self.since)).total_seconds())
        return round(1000 * seconds * share(self.lease, self.device))


def share(lease: Lease, device: Device) -> float:
    """Of the device: 1 where it is held whole."""
    return 1.0 if lease.exclusive or not device.memory else min(1.0, lease.bytes / device.memory)


def midnight_after(at: datetime) -> datetime:
    """UTC."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def pieces(since: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
    """The time between, cut at each midnight (UTC)."""
    found = []
    while (midnight := midnight_after(since)) < until:
        found.append((since, midnight))
        since = midnight
    return [*found, (since, until)]


def rows(live: Live, until: datetime, *, ends: bool) -> list[dict[str, Any]]:
    """Of the ledger, up to `until`. The last piece of a lease that `ends` has the lease's id."""
    lease = live.lease
    found = pieces(live.since, until)
    return [
        {
            "id": lease.id if ends and (start, end) == found[-1] else f"{lease.id}:{at_ms(start)}",
            "at": end if end == until else end - TICK,
            "kind": "device",
            "workspace_id": lease.workspace_id,
            "user_id": lease.user_id,
            "owner_kind": lease.owner_kind,
            "owner_id": lease.owner_id,
            "device": live.device.model,
            "device_ms": live.ms(start, end),
        }
        for start, end in found
    ]


def at_ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def settle(db: Session, leases: Iterable[Lease], at: datetime) -> None:
    """They end: what of them is not in the ledger yet is written. Each has its `.device`."""
    found = [row for one in leases for row in rows(Live(one, one.device), at, ends=True)]
    record(db, found)
    replicas = [row["owner_id"] for row in found if row["owner_kind"] == "replica"]
    db.execute(delete(Reservation).where(Reservation.owner_id.in_(replicas)))


def record(db: Session, found: list[dict[str, Any]]) -> None:
    """Into the ledger; what was reserved for it is so much less."""
    about = select(Reservation.owner_id, Reservation.model_id, Reservation.base_id).where(
        Reservation.owner_id.in_([row["owner_id"] for row in found])
    )
    models = {one.owner_id: one for one in db.execute(about)}
    for row in found:
        if one := models.get(row["owner_id"]):
            row |= {"model_id": one.model_id, "base_id": one.base_id}
    quotas.record(db, found)
    for owner_id in {row["owner_id"] for row in found}:
        used = sum(row["device_ms"] for row in found if row["owner_id"] == owner_id)
        db.execute(
            update(Reservation)
            .where(Reservation.owner_id == owner_id)
            .values(device_ms=func.greatest(0, Reservation.device_ms - used))
        )
