"""What a finished job took, in the words of its estimate."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster.tables import Device, Lease
from app.jobs.history import storable
from app.jobs.tables import Job, JobMetric
from app.models.tables import Model
from app.quotas import charging
from app.quotas import service as quotas
from app.quotas.money_tables import Charge
from app.quotas.tables import Usage


def record_tokens(db: Session, job: Job, result: dict[str, Any] | None) -> None:
    """The tokens that an attempt has trained on, into the ledger: what the job has, less what
    earlier attempts had.
    """
    total = (result or {}).get("tokens")
    if total is None:
        steps = select(func.sum(JobMetric.data["tokens"].as_integer()))
        total = db.scalar(steps.where(JobMetric.job_id == job.id)) or 0
    before = select(func.coalesce(func.sum(Usage.trained_tokens), 0)).where(
        Usage.owner_id == job.id, Usage.kind == "train"
    )
    tokens = int(total) - int(db.scalar(before) or 0)
    if tokens <= 0:
        return
    model = db.get_one(Model, job.model_id)
    row = {
        "id": f"{job.id}:{job.fence}",
        "kind": "train",
        "workspace_id": job.workspace_id,
        "user_id": job.created_by,
        "owner_kind": "job",
        "owner_id": job.id,
        "model": model.name,
        "model_id": model.id,
        "base_id": model.base_id or "",
        "trained_tokens": tokens,
    }
    quotas.record(db, [row])


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
    charged = db.execute(
        select(Charge.currency, func.sum(Charge.parts).label("parts"))
        .join(Usage, Usage.id == Charge.usage_id)
        .where(Usage.owner_kind == "job", Usage.owner_id == job.id, Charge.currency != "")
        .group_by(Charge.currency)
        .order_by(func.sum(Charge.parts).desc())
    ).first()
    if charged:
        found["cost"] = round(float(charging.money(charged.parts, charging.FINE)), 4)
        found["currency"] = charged.currency
    kept: dict[str, Any] = storable({name: one for name, one in found.items() if one is not None})
    return kept
