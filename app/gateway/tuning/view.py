"""A tuning job in OpenAI's words."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.db import now
from app.gateway.tuning import names
from app.gateway.tuning.service import Both
from app.gateway.tuning.tables import TuningJob
from app.jobs import history, stream
from app.jobs.checkpoints import of_job
from app.jobs.tables import Job, JobCheckpoint

# OpenAI knows no pause. What was asked to stop for good will be nothing else.
STATES = {
    "validating": "validating_files",
    "queued": "queued",
    "scheduled": "running",
    "running": "running",
    "pausing": "running",
    "paused": "running",
    "cancelling": "cancelled",
    "cancelled": "cancelled",
    "failed": "failed",
    "succeeded": "succeeded",
}
METHODS = {"dpo": "dpo", "orpo": "dpo", "kto": "dpo"}


def stamp(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None


def out(db: Session, both: Both, say: stream.Say) -> dict[str, Any]:
    row, job = both.row, both.job
    found = row.resolved or row.asked
    basic = {name: value for name, value in found.items() if name != "beta"}
    kind = METHODS.get(row.stage, "supervised")
    chosen = found if kind == "dpo" else basic
    made = job.result_model_id if job else None
    return {
        "object": "fine_tuning.job",
        "id": row.id,
        "model": row.model,
        "created_at": stamp(row.created_at),
        "finished_at": stamp(job.finished_at if job else row.finished_at),
        "fine_tuned_model": names.of(db, row.workspace_id, made) if made else None,
        "organization_id": row.workspace_id,
        "result_files": [row.result_file_id] if row.result_file_id else [],
        "status": STATES[both.state],
        "training_file": row.training_files[0],
        "validation_file": row.validation_files[0] if row.validation_files else None,
        "hyperparameters": basic,
        "method": {"type": kind, kind: {"hyperparameters": chosen}},
        "trained_tokens": (job.outcome or {}).get("tokens") if job else None,
        "seed": row.seed,
        "estimated_finish": finish(db, job),
        "user_provided_suffix": row.suffix or None,
        "integrations": row.integrations,
        "metadata": row.meta,
        "error": error(both, say),
    }


def finish(db: Session, job: Job | None) -> int | None:
    """When a running job will be over, as an estimate from its last steps."""
    if job is None or job.state != "running":
        return None
    eta = stream.snapshot(job, "", history.pace(db, job.id), None)["eta"]
    return None if eta is None else stamp(now() + timedelta(seconds=eta))


def error(both: Both, say: stream.Say) -> dict[str, Any] | None:
    """{code, message, param}: of the files, or of our job."""
    if both.job:
        known = stream.error_of(both.job, say)
        return {**known, "param": None} if known else None
    return told(both.row, say) if both.row.error else None


def told(row: TuningJob, say: stream.Say) -> dict[str, Any]:
    """The error of a job whose files were refused, with the lines that are wrong."""
    assert row.error
    lines = [
        f"{one['line']}: {one['path']}: {say(one['message'], one['params'])}"
        if one["path"]
        else f"{one['line']}: {say(one['message'], one['params'])}"
        for one in row.error.get("problems", [])
    ]
    message = say(row.error["message"], row.error["params"])
    if lines:
        message += " Line " + "; line ".join(lines)
    return {"code": row.error["code"], "message": message, "param": row.error["param"]}


def checkpoints(db: Session, both: Both) -> list[dict[str, Any]]:
    """The newest first. The last step's is the tuned model itself, for as long as that is there."""
    job = both.job
    if job is None:
        return []
    metrics = {line["step"]: line for line in history.metrics(db, job.id)}
    rows = [(row, names.of_checkpoint(db, both.row, job, row.step)) for row in of_job(db, job)]
    made = names.of(db, both.row.workspace_id, job.result_model_id) if job.result_model_id else None
    end = max(metrics, default=job.step)
    if made and end not in {row.step for row, _ in rows}:
        known = metrics.get(end, {})
        last = JobCheckpoint(
            step=end,
            loss=known.get("loss"),
            eval_loss=known.get("eval_loss"),
            created_at=job.finished_at,
        )
        rows.insert(0, (last, made))
    return [checkpoint(both, row, name, metrics.get(row.step, {})) for row, name in rows]


def checkpoint(
    both: Both, one: JobCheckpoint, name: str, metrics: dict[str, Any]
) -> dict[str, Any]:
    assert both.job
    validated = {
        "valid_loss": one.eval_loss,
        "valid_mean_token_accuracy": metrics.get("eval_accuracy"),
        "full_valid_loss": one.eval_loss,
        "full_valid_mean_token_accuracy": metrics.get("eval_accuracy"),
    }
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt_{names.tail_of(both.job.id)}{one.step}",
        "created_at": stamp(one.created_at),
        "fine_tuned_model_checkpoint": name,
        "fine_tuning_job_id": both.row.id,
        "step_number": one.step,
        "metrics": {
            "step": one.step,
            "train_loss": one.loss,
            "train_mean_token_accuracy": metrics.get("accuracy"),
        }
        | {name: value for name, value in validated.items() if value is not None},
    }
