"""What devices did, over time: a reading every 15 s, thinned to minutes after a day and to hours
after a week, gone after 30 days.

Written by one statement a node and reading, from what its heartbeat left in `devices`. Thinning
and clearing go piece by piece, one at each sweep: the oldest minute or hour that is due.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.cluster.tables import Device, DeviceReading, Lease
from app.db import now

PERIOD = 15  # seconds between two readings
ACTIVE = 5  # percent of use from which a device does something
KEPT = timedelta(days=30)
# seconds of a reading, how old it becomes, seconds of what it is made part of
THINNED = ((PERIOD, timedelta(days=1), 60), (60, timedelta(days=7), 3600))
DEVICES = 500  # thinned at a time
ROWS = 20_000  # cleared at a time
# what the page offers: seconds shown, seconds of one point
RANGES: dict[str, tuple[int, int]] = {
    "1h": (3600, 15),
    "24h": (86_400, 300),
    "7d": (604_800, 3600),
    "30d": (2_592_000, 14_400),
}
MEASURES = ("use", "memory", "temperature", "power")


# -- writing -----------------------------------------------------------------------------


def record(db: Session, node_id: str, passed: float) -> None:
    """Keep the last reading of each of the node's devices; `passed` seconds since the one before
    count for who holds them.
    """
    at = now().replace(microsecond=0)

    def said(name: str, kind: Any) -> ColumnElement[Any]:
        found: ColumnElement[Any] = Device.stats[name].astext.cast(kind)
        return found

    kinds = {name: getattr(DeviceReading, name).type for name in MEASURES}
    read = select(
        Device.id, literal(PERIOD), literal(at), *(said(name, kinds[name]) for name in MEASURES)
    ).where(Device.node_id == node_id, Device.healthy)
    columns = ["device_id", "step", "at", *MEASURES]
    db.execute(insert(DeviceReading).from_select(columns, read).on_conflict_do_nothing())
    use = said("use", Lease.worked.type)
    db.execute(
        update(Lease)
        .where(
            Lease.node_id == node_id,
            Lease.released_at.is_(None),
            Device.id == Lease.device_id,
            Device.healthy,
            use.is_not(None),
        )
        .values(
            measured=Lease.measured + passed,
            worked=Lease.worked + passed * use / 100,
            active_at=case((use >= ACTIVE, at), else_=Lease.active_at),
        )
        .execution_options(synchronize_session=False)
    )


# -- thinning and clearing ---------------------------------------------------------------


def clear(db: Session) -> None:
    """One piece of each: what is due to be thinned, what is too old."""
    for step, age, coarser in THINNED:
        thin(db, step, age, coarser)
    old = (
        select(DeviceReading.device_id, DeviceReading.step, DeviceReading.at)
        .where(DeviceReading.step == THINNED[-1][2], DeviceReading.at < now() - KEPT)
        .limit(ROWS)
    )
    key = tuple_(DeviceReading.device_id, DeviceReading.step, DeviceReading.at)
    db.execute(delete(DeviceReading).where(key.in_(old)))


def thin(db: Session, step: int, age: timedelta, coarser: int) -> None:
    """Make one reading of the oldest `coarser` seconds' worth, for up to DEVICES of them."""
    reading = DeviceReading
    due = floor(now() - age, coarser)
    oldest = db.scalar(select(func.min(reading.at)).where(reading.step == step, reading.at < due))
    if oldest is None:
        return
    begin = floor(oldest, coarser)
    piece = (
        (reading.step == step)
        & (reading.at >= begin)
        & (reading.at < begin + timedelta(seconds=coarser))
    )
    some = select(reading.device_id).where(piece).distinct().limit(DEVICES)
    gone = delete(reading).where(piece, reading.device_id.in_(some)).returning(reading).cte("gone")
    means = select(
        gone.c.device_id,
        literal(coarser),
        literal(begin),
        *(func.avg(gone.c[name]).cast(getattr(reading, name).type) for name in MEASURES),
    ).group_by(gone.c.device_id)
    db.execute(insert(reading).from_select(["device_id", "step", "at", *MEASURES], means))


def floor(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


# -- reading -----------------------------------------------------------------------------

Curve = list[float | None]


@dataclass
class Curves:
    """One value per point of time and device, None where there is none. `t` is in seconds since
    1970, the start of the `step` seconds that a point stands for.
    """

    step: int
    t: list[int]
    devices: dict[str, dict[str, Curve]]  # id → use (percent), memory (bytes), temperature, power


def curves(db: Session, devices: Iterable[str], shown: str) -> Curves:
    """The last `shown` (of RANGES) of some devices, by id."""
    length, step = RANGES[shown]
    end = int(now().timestamp()) // step * step
    times = list(range(end - length + step, end + step, step))
    place = {at: index for index, at in enumerate(times)}
    found: dict[str, dict[str, Curve]] = {
        one: {name: [None] * len(times) for name in MEASURES} for one in devices
    }
    reading = DeviceReading
    size = literal(step)
    bucket = (func.floor(func.extract("epoch", reading.at) / size) * size).label("bucket")

    def mean(name: str) -> ColumnElement[Any]:  # a minute's reading counts as much as four of 15 s
        value = getattr(reading, name)
        weight = func.sum(case((value.is_not(None), reading.step)))
        return func.sum(value * reading.step) / weight

    query = (
        select(reading.device_id, bucket, *(mean(name) for name in MEASURES))
        .where(reading.device_id.in_(found), reading.at >= datetime.fromtimestamp(times[0], UTC))
        .group_by(reading.device_id, bucket)
    )
    for device_id, start, *values in db.execute(query):
        index = place.get(int(start))
        if index is not None:
            for name, value in zip(MEASURES, values, strict=True):
                if value is not None:
                    found[device_id][name][index] = round(float(value), 1)
    return Curves(step, times, found)
