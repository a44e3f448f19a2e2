"""What is left of device hours and places in the queue; reserved when a job is submitted.

Used is what the ledger has, what running leases have not yet written there, and what was reserved
for jobs that are not over. One submission of a workspace at a time.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.cluster import metering
from app.cluster import service as cluster
from app.cluster.metering import Live
from app.cluster.tables import Device, Lease
from app.db import now
from app.errors import N_, Invalid
from app.quotas import accounts, limits, stored
from app.quotas.kinds import HOUR
from app.quotas.service import month_of
from app.quotas.tables import Reservation, Usage

MINUTE = timedelta(minutes=1)
PIECE = timedelta(hours=1)  # after so long what is held goes to the ledger
DAY, MONTH = "device_hours_day", "device_hours_month"


@dataclass(frozen=True)
class Period:
    """A day or a month, UTC, in which a budget counts."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, name: str, at: datetime) -> "Period":
        start = at.replace(hour=0, minute=0, second=0, microsecond=0)
        if name.endswith("_day"):
            return cls(start, start + timedelta(days=1))
        return cls(*month_of(start))


def live(db: Session, workspace_id: str, user_id: str | None = None) -> list[Live]:
    """What is held just now."""
    query = (
        select(Lease, Device)
        .join(Device, Device.id == Lease.device_id)
        .where(Lease.workspace_id == workspace_id, Lease.released_at.is_(None))
    )
    if user_id:
        query = query.where(Lease.user_id == user_id)
    return [Live(lease, device) for lease, device in db.execute(query)]


def used(db: Session, workspace_id: str, user_id: str | None, period: Period) -> int:
    """Device milliseconds of the period: the ledger's, and what runs up to now."""
    query = select(func.coalesce(func.sum(Usage.device_ms), 0)).where(
        Usage.workspace_id == workspace_id, Usage.kind == "device", Usage.at >= period.start
    )
    if user_id:
        query = query.where(Usage.user_id == user_id)
    at = now()
    running = sum(one.ms(period.start, at) for one in live(db, workspace_id, user_id))
    return int(db.scalar(query) or 0) + running


def reserved(db: Session, workspace_id: str, user_id: str | None, period: Period) -> int:
    """Device milliseconds that are promised to jobs and not used yet; of a day no more than its
    rest has.
    """
    at = now()
    had: Counter[str] = Counter()
    for one in live(db, workspace_id, user_id):
        had[one.lease.owner_id] += one.ms(one.since, at)
    query = select(Reservation).where(Reservation.workspace_id == workspace_id)
    if user_id:
        query = query.where(Reservation.user_id == user_id)
    return sum(
        part(max(0, one.device_ms - had[one.owner_id]), one.devices, period, at)
        for one in db.scalars(query)
    )


def part(device_ms: int, devices: int, period: Period, at: datetime) -> int:
    """What of it can fall into the period."""
    return min(device_ms, round(devices * (period.end - at).total_seconds() * 1000))


# -- when something is submitted ---------------------------------------------------------


def reserve(
    db: Session,
    *,
    owner_id: str,
    workspace_id: str,
    user_id: str | None,
    devices: int,
    device_ms: int = 0,
    owner_kind: str = "job",
    model_id: str = "",
    base_id: str = "",
) -> None:
    """Hold a place in the queue and the device time that it will likely take.

    Raises OutOfMoney, and Invalid with a sentence that says what is left, and until when.
    """
    accounts.refuse_if_out(db, workspace_id)
    limits.lock(db, workspace_id)
    stored.check(db, workspace_id, user_id)
    refuse_never(db, workspace_id, user_id, devices)
    refuse_queue(db, workspace_id, user_id)
    for name in (DAY, MONTH):
        refuse_hours(db, workspace_id, user_id, name, devices, device_ms)
    values = {
        "owner_kind": owner_kind,
        "owner_id": owner_id,
        "workspace_id": workspace_id,
        "user_id": user_id,
        "devices": devices,
        "device_ms": device_ms,
        "waiting": True,
        "model_id": model_id,
        "base_id": base_id,
        "created_at": now(),
    }
    db.execute(
        insert(Reservation)
        .values(**values)
        .on_conflict_do_update(
            constraint="pk_reservations", set_={"waiting": True, "device_ms": device_ms}
        )
    )


def refuse_never(db: Session, workspace_id: str, user_id: str | None, devices: int) -> None:
    """A member's own limit that this exceeds whatever happens."""
    most = limits.concurrent(db).member(workspace_id, user_id).devices
    if most is not None and devices > most:
        raise Invalid(
            N_(
                "You may hold %(most)s devices at once in this workspace, so %(devices)s can "
                "never be granted. Ask for %(most)s at most."
            ),
            code="quota",
            field="devices",
            devices=devices,
            most=most,
            quota="devices",
            own=True,
        )


def refuse_queue(db: Session, workspace_id: str, user_id: str | None) -> None:
    for whose, limit in limits.caps(db, workspace_id, user_id, "queued_jobs"):
        query = select(func.count()).where(
            Reservation.workspace_id == workspace_id, Reservation.waiting
        )
        if whose:
            query = query.where(Reservation.user_id == whose)
        waiting = db.scalar(query) or 0
        assert limit.amount is not None
        if waiting >= limit.amount:
            raise Invalid(
                N_(
                    "Your limit is %(limit)s queued jobs, and %(waiting)s of yours wait already. "
                    "Submit this one when one of them has started."
                )
                if whose
                else N_(
                    "This workspace may have %(limit)s queued jobs, and %(waiting)s wait already. "
                    "Submit this one when one of them has started."
                ),
                code="quota",
                field="quota",
                limit=limit.amount,
                waiting=waiting,
                quota="queued_jobs",
                own=whose is not None,
            )


def refuse_hours(
    db: Session, workspace_id: str, user_id: str | None, name: str, devices: int, device_ms: int
) -> None:
    at = now()
    period = Period.of(name, at)
    for whose, limit in limits.caps(db, workspace_id, user_id, name):
        assert limit.amount is not None
        taken = used(db, workspace_id, whose, period) + reserved(db, workspace_id, whose, period)
        left = max(0, limit.amount - taken)
        asked = part(device_ms, devices, period, at) if name == DAY else device_ms
        if asked > left or not left:
            raise Invalid(
                SENTENCES[name, bool(whose)],
                code="quota",
                field="quota",
                asked=hours(asked),
                left=hours(left),
                limit=hours(limit.amount),
                until=f"{period.end:%Y-%m-%d %H:%M} UTC",
                quota=name,
                own=whose is not None,
            )


def refuse_used_up(db: Session, workspace_id: str, user_id: str | None) -> None:
    """For what takes device time without an end that is known: raises Invalid where nothing is
    left of a day's or a month's.
    """
    for name in (DAY, MONTH):
        period = Period.of(name, now())
        for whose, limit in limits.caps(db, workspace_id, user_id, name):
            if used(db, workspace_id, whose, period) >= (limit.amount or 0):
                raise Invalid(
                    N_(
                        "Your %(limit)s GPU-hours in this workspace are used up until %(until)s. "
                        "Ask for more, or come again then."
                    )
                    if whose
                    else N_(
                        "The %(limit)s GPU-hours of this workspace are used up until %(until)s. "
                        "Ask for more, or come again then."
                    ),
                    code="quota",
                    field="quota",
                    limit=hours(limit.amount or 0),
                    until=f"{period.end:%Y-%m-%d %H:%M} UTC",
                    quota=name,
                    own=whose is not None,
                )


SENTENCES = {
    (DAY, False): N_(
        "This would take about %(asked)s GPU-hours today, and %(left)s are left of this "
        "workspace's %(limit)s a day, counting what runs and waits. The day ends at %(until)s."
    ),
    (DAY, True): N_(
        "This would take about %(asked)s GPU-hours today, and %(left)s are left of your "
        "%(limit)s a day, counting what runs and waits. The day ends at %(until)s."
    ),
    (MONTH, False): N_(
        "This would take about %(asked)s GPU-hours, and %(left)s are left of this workspace's "
        "%(limit)s a month, counting what runs and waits. The month ends at %(until)s."
    ),
    (MONTH, True): N_(
        "This would take about %(asked)s GPU-hours, and %(left)s are left of your %(limit)s a "
        "month, counting what runs and waits. The month ends at %(until)s."
    ),
}


def hours(device_ms: int) -> str:
    return f"{device_ms / HOUR:.4g}"


def refuse_count(
    db: Session, workspace_id: str, user_id: str | None, name: str, have: dict[str | None, int]
) -> None:
    """One more of what is counted would be too many. `have`: by member, and of all under None."""
    for whose, limit in limits.caps(db, workspace_id, user_id, name):
        if have.get(whose, 0) >= (limit.amount or 0):
            raise Invalid(
                N_("This workspace may have %(limit)s deployments, and has %(have)s. Delete one.")
                if whose is None
                else N_("You may have %(limit)s deployments, and have %(have)s. Delete one."),
                code="quota",
                field="quota",
                limit=limit.amount,
                have=have.get(whose, 0),
                quota=name,
                own=whose is not None,
            )


def serves(
    db: Session, replica_id: str, workspace_id: str, user_id: str, model_id: str, base_id: str
) -> None:
    """Say what model a replica's device time is for; nothing is reserved."""
    values = {"owner_kind": "replica", "owner_id": replica_id, "workspace_id": workspace_id}
    of = {"user_id": user_id, "model_id": model_id, "base_id": base_id}
    more = {"devices": 0, "device_ms": 0, "waiting": False, "created_at": now()}
    db.execute(
        insert(Reservation)
        .values(**values, **of, **more)
        .on_conflict_do_update(constraint="pk_reservations", set_=of)
    )


# -- afterwards --------------------------------------------------------------------------


def waits(db: Session, owner_id: str, waiting: bool) -> None:
    """It is queued, or has got its devices."""
    db.execute(update(Reservation).where(Reservation.owner_id == owner_id).values(waiting=waiting))


def drop(db: Session, owner_id: str) -> None:
    """It is over, or paused: nothing is reserved for it."""
    db.execute(delete(Reservation).where(Reservation.owner_id == owner_id))


def write(db: Session) -> None:
    """What has been held for an hour, or over midnight, goes to the ledger. Under the cluster's
    lock.
    """
    at = now()
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    due = max(at - PIECE, midnight)
    cluster.lock(db)
    for lease in db.scalars(
        cluster.held().where(
            or_(Lease.metered_at < due, Lease.metered_at.is_(None) & (Lease.created_at < due))
        )
    ):
        metering.record(db, metering.rows(Live(lease, lease.device), at, ends=False))
        lease.metered_at = at
    db.flush()
