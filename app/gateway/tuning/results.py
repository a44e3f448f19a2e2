"""What a tuning job leaves: the file with its curve, as OpenAI has it."""

import csv
import io
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.gateway.files import service as files
from app.gateway.tuning.service import Both
from app.gateway.tuning.tables import TuningJob
from app.jobs import history
from app.jobs.tables import Job

PURPOSE = "fine-tune-results"
NAME = "step_metrics.csv"
COLUMNS = {
    "step": ("step",),
    "train_loss": ("loss",),
    "train_accuracy": ("accuracy", "reward_accuracy"),
    "valid_loss": ("eval_loss",),
    "valid_mean_token_accuracy": ("eval_accuracy", "eval_reward_accuracy"),
}


def measured(line: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of `names` that the line has; None if it has none."""
    return next((line[name] for name in names if line.get(name) is not None), None)


def table(lines: list[dict[str, Any]]) -> bytes:
    """The metrics of all steps as CSV; what was not measured is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines:
        values = [measured(line, names) for names in COLUMNS.values()]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue().encode()


def settle(db: Session, both: Both) -> None:
    """Write the result file of a job that has just succeeded; twice is once."""
    job = both.job
    if job is None or job.state != "succeeded" or both.row.result_file_id:
        return
    row = db.get_one(TuningJob, both.row.id, with_for_update=True, populate_existing=True)
    if row.result_file_id:
        return
    made = files.made(
        row.workspace_id, NAME, PURPOSE, table(history.metrics(db, job.id)), user_id=row.user_id
    )
    row.result_file_id = made.id
    db.flush()


def settle_all(db: Session) -> None:
    """A step of the sweep: so that the file is there before anybody looks at the job."""
    query = (
        select(TuningJob, Job)
        .join(Job, Job.id == TuningJob.job_id)
        .where(Job.state == "succeeded", TuningJob.result_file_id.is_(None))
    )
    for row, job in db.execute(query.limit(20)).all():
        settle(db, Both(row, job))
