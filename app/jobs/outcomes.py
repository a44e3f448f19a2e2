"""What a finished job took, in the words of its estimate."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster.tables import Device, Lease
from app.jobs.history import storable
from app.jobs.tables import Job
from app.quotas import prices
from app.quotas.tables import Usage


def measured(db: Session, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """From the stage's result.json and the ledger of devices; only what was really measured."""
    data = result.get("data") or {}
    found: dict[str, Any] = {
        "rows": data.get("samples", data.get("rows")),
        "dropped": data.get("dropped"),
        "truncated": data.get("truncated"),
        "tokens": result.get("tokens"),
        "steps": result.get("steps"),
        "peak_memory": result.get("peak_memory"),
    }
    if result.get("tokens") and result.get("seconds"):
        found["tokens_per_second"] = round(result["tokens"] / result["seconds"], 1)
    held = db.scalar(
        select(func.sum(Usage.device_ms)).where(
            Usage.owner_kind == "job", Usage.owner_id == job.id, Usage.kind == "device"
        )
    )
    if held:
        found["device_hours"] = round(float(held) / 3_600_000, 4)
        found["seconds"] = round(float(held) / 1000 / max(1, job.devices))
        device = db.scalar(
            select(Device.model)
            .join(Lease, Lease.device_id == Device.id)
            .where(Lease.owner_kind == "job", Lease.owner_id == job.id)
            .order_by(Lease.created_at.desc())
            .limit(1)
        )
        found["device"] = device
        if price := prices.of(db, device or ""):
            found["cost"] = round(float(held) / 3_600_000 * float(price.hour), 4)
            found["currency"] = price.currency
    kept: dict[str, Any] = storable({name: one for name, one in found.items() if one is not None})
    return kept
