"""A tuning job in DashScope's words."""

from typing import Any

from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.errors import N_, Invalid
from app.gateway.dashscope import hyperparameters
from app.gateway.dashscope.replies import moment
from app.gateway.dashscope.schemas import TRAINING, FineTuneCreate
from app.gateway.tuning import names, service, view
from app.gateway.tuning.service import Both
from app.gateway.tuning.tables import TuningJob
from app.jobs import stream
from app.jobs.schemas import NAME
from app.jobs.tables import JobCheckpoint
from app.models.tables import Model

STATES = {
    "validating": "PENDING",
    "queued": "QUEUING",
    "scheduled": "RUNNING",
    "running": "RUNNING",
    "pausing": "RUNNING",
    "paused": "SUSPENDED",
    "cancelling": "CANCELING",
    "cancelled": "CANCELED",
    "failed": "FAILED",
    "succeeded": "SUCCEEDED",
}
CHECKPOINTS = {
    "kept": "PENDING",  # until somebody exports it
    "publishing": "PROCESSING",
    "published": "SUCCEEDED",
    "failed": "FAILED",
}
TYPES = {(stage, method): name for name, (stage, method) in TRAINING.items()}


# -- ids ---------------------------------------------------------------------------------


def id_of(row: TuningJob) -> str:
    """ft-202511132025-…: the same job as at `/v1`, under another name."""
    return f"ft-{row.created_at:%Y%m%d%H%M}-{row.id.removeprefix('ftjob-')}"


def row_id(job_id: str) -> str:
    """Back again. What is no such id finds nothing."""
    return "ftjob-" + job_id.rpartition("-")[2]


# -- starting ----------------------------------------------------------------------------


def create(db: Session, who: Principal, body: FineTuneCreate) -> TuningJob:
    """Raises NotFound (model or file), Invalid."""
    if not body.training:
        raise Invalid(N_("Say which files to train on."), field="training_file_ids")
    if len(body.validation) > 1:
        raise Invalid(
            N_("One file is validated on at most; join them first."), field="validation_file_ids"
        )
    stage, method = TRAINING[body.training_type]
    settings = hyperparameters.translate(body.hyper_parameters, stage, method)
    if body.validation:
        settings["split"] = None
    row = service.add(
        db,
        who,
        api="dashscope",
        model=body.model,
        stage=stage,
        method=method,
        training_files=body.training,
        validation_files=body.validation,
        asked=body.hyper_parameters,
        settings=settings,
        suffix=body.finetuned_output_suffix or "",
        seed=settings["hyperparameters"].get("seed", hyperparameters.SEED),
    )
    row.name = name_of(db, row, body)
    return row


def name_of(db: Session, row: TuningJob, body: FineTuneCreate) -> str:
    """The tuned model's: qwen3-8b-ft-202511132025-abcd unless it is given."""
    if given := body.model_name or body.finetuned_output:
        return given
    base = names.clean(db.get_one(Model, row.model_id).name)
    tail = f"-{body.finetuned_output_suffix or 'ft'}-{row.created_at:%Y%m%d%H%M}-{row.id[6:10]}"
    return base[: NAME - len(tail)] + tail


# -- telling -----------------------------------------------------------------------------


def out(db: Session, both: Both, say: stream.Say) -> dict[str, Any]:
    row, job = both.row, both.job
    made = db.get(Model, job.result_model_id) if job and job.result_model_id else None
    chosen = db.get_one(Model, row.model_id)
    base = db.get_one(Model, chosen.base_id) if chosen.base_id else chosen
    found = {
        "job_id": id_of(row),
        "job_name": id_of(row),
        "status": STATES[both.state],
        "model": row.model,
        "base_model": base.name,
        "finetuned_output": made.name if made else row.name or (job.name if job else ""),
        "training_file_ids": row.training_files,
        "validation_file_ids": row.validation_files,
        "training_datasets": [
            {"data_source_type": "file_id", "file_id": one} for one in row.training_files
        ],
        "hyper_parameters": row.asked,
        "training_type": TYPES.get((row.stage, row.method), row.stage),
        "create_time": moment(row.created_at),
        "end_time": moment(job.finished_at if job else row.finished_at),
        "workspace_id": row.workspace_id,
        "user_identity": row.workspace_id,
        "creator": row.user_id,
        "modifier": row.user_id,
        "group": "llm",
        "usage": (job.outcome or {}).get("tokens") if job else None,
        "max_output_cnt": job.spec.get("keep_checkpoints") if job else None,
    }
    if error := view.error(both, say):
        found |= {"code": error["code"], "message": error["message"]}
    return {name: value for name, value in found.items() if value is not None}


def checkpoint(db: Session, both: Both, one: JobCheckpoint, epoch: float | None) -> dict[str, Any]:
    made = db.get(Model, one.model_id) if one.model_id else None
    metrics = {"train_loss": one.loss, "eval_loss": one.eval_loss}
    return {
        "job_id": id_of(both.row),
        "checkpoint": f"checkpoint-{one.step}",
        "full_name": f"{id_of(both.row)}-checkpoint-{one.step}",
        "model_name": made.name if made else one.name or None,
        "model_display_name": made.name if made else one.name or None,
        "status": CHECKPOINTS[one.state],
        "step": one.step,
        "epoch": epoch,
        "create_time": moment(one.created_at),
        "expire_time": None,
        "metrics": {name: value for name, value in metrics.items() if value is not None},
    }
