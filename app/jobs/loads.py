"""What a job's devices do while it runs: a bounded history, from the node's heartbeats.

There is a reading every heartbeat at first. Whenever a job has MOST of them, every other one is
dropped, so that the whole run is always covered, ever more coarsely.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.cluster.tables import Device, Lease
from app.jobs.tables import JobLoad

MOST = 1440  # readings of a job
KEPT = ("use", "memory")


def record(db: Session, node_id: str) -> None:
    """A reading of every device that a job holds on the node, as the last heartbeat had it."""
    readings: dict[str, dict[str, Any]] = {}
    query = (
        select(Lease.owner_id, Device.name, Device.stats)
        .join(Device, Device.id == Lease.device_id)
        .where(Lease.node_id == node_id, Lease.owner_kind == "job", Lease.released_at.is_(None))
    )
    for job_id, name, stats in db.execute(query):
        found = {key: stats[key] for key in KEPT if isinstance(stats.get(key), int | float)}
        if found:
            readings.setdefault(job_id, {})[name] = found
    for job_id, data in readings.items():
        db.add(JobLoad(job_id=job_id, data=data))
    db.flush()
    for job_id in readings:
        thin(db, job_id)


def thin(db: Session, job_id: str) -> None:
    if (db.scalar(select(func.count()).where(JobLoad.job_id == job_id)) or 0) < MOST:
        return
    number = func.row_number().over(order_by=JobLoad.id)
    numbered = select(JobLoad.id, number.label("number")).where(JobLoad.job_id == job_id).subquery()
    db.execute(
        delete(JobLoad).where(
            JobLoad.id.in_(select(numbered.c.id).where(numbered.c.number % 2 == 0))
        )
    )


def of(db: Session, job_id: str, after: int = 0) -> Sequence[JobLoad]:
    """In order; `after` is the id of the last one known."""
    return db.scalars(
        select(JobLoad)
        .where(JobLoad.job_id == job_id, JobLoad.id > after)
        .order_by(JobLoad.id)
        .limit(MOST)
    ).all()


def shown(rows: Sequence[JobLoad]) -> list[dict[str, Any]]:
    """[{t (seconds since 1970), devices: {name: {use (percent), memory (bytes)}}}]"""
    return [{"t": round(row.at.timestamp(), 1), "devices": row.data} for row in rows]
