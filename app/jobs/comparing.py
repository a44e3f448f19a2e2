"""Several runs side by side: what differs between their settings, their data and their results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.tables import DatasetVersion
from app.errors import N_, Invalid
from app.jobs import service, view
from app.jobs.data import parts_of
from app.jobs.spec import Hyperparameters
from app.jobs.tables import Job, JobMetric
from app.models.tables import Model

MOST = 8  # runs: more curves cannot be told apart
RESULTS = ("steps", "tokens", "tokens_per_second", "peak_memory", "seconds", "device_hours", "cost")


@dataclass(frozen=True)
class Difference:
    """A line of the table. `title` is a msgid; `values` stand in the order of the jobs."""

    group: str  # settings, data, results
    name: str
    title: str
    values: list[Any]
    same: bool


def chosen(db: Session, workspace_id: str, ids: str) -> list[Job]:
    """The jobs named, in that order. Raises Invalid and NotFound."""
    names = list(dict.fromkeys(name for name in ids.split(",") if name))
    if len(names) > MOST:
        raise Invalid(N_("At most %(most)s jobs can be compared at once."), most=MOST, field="ids")
    return [service.get(db, workspace_id, name) for name in names]


def differences(db: Session, jobs: Sequence[Job]) -> list[Difference]:
    models = {
        one.id: one.name
        for one in db.scalars(select(Model).where(Model.id.in_({job.model_id for job in jobs})))
    }
    ids = {part["version"] for job in jobs for part in parts_of(job)}
    ids |= {job.validation_version_id for job in jobs if job.validation_version_id}
    versions = view.versions(db, ids)
    lines = [
        line("settings", "model", N_("Model"), [models[job.model_id] for job in jobs]),
        line("settings", "stage", N_("Stage"), [job.stage for job in jobs]),
        line("settings", "method", N_("Method"), [job.method for job in jobs]),
        line("settings", "devices", N_("Devices"), [job.devices for job in jobs]),
    ]
    fields = Hyperparameters.model_fields
    names = [name for name in fields if any(name in job.spec for job in jobs)]
    for name in names:
        title = fields[name].title or name
        lines.append(line("settings", name, title, [job.spec.get(name) for job in jobs]))
    lines += [
        line("data", "dataset", N_("Dataset"), [told(job, versions) for job in jobs]),
        line("data", "validation", N_("Validation data"), [held(job, versions) for job in jobs]),
        line("results", "state", N_("State"), [job.state for job in jobs]),
        *measured(db, jobs),
    ]
    for name in RESULTS:
        values = [(job.outcome or {}).get(name) for job in jobs]
        if any(value is not None for value in values):
            lines.append(line("results", name, view.FIGURES[name], values))
    return lines


def line(group: str, name: str, title: str, values: list[Any]) -> Difference:
    return Difference(group, name, title, values, all(value == values[0] for value in values))


def told(job: Job, versions: dict[str, DatasetVersion]) -> str:
    """`reviews v2 × 2 + chat v1 (20 %)`"""
    words = []
    for part in parts_of(job):
        version = versions[part["version"]]
        text = f"{version.dataset.name} v{version.number}"
        if "share" in part:
            text += f" ({part['share']:g} %)"
        elif part["multiplier"] != 1:
            text += f" × {part['multiplier']:g}"
        words.append(text)
    return " + ".join(words)


def held(job: Job, versions: dict[str, DatasetVersion]) -> str:
    if split := job.mix.get("split"):
        return f"{split['split'] * 100:g} %"
    version = versions.get(job.validation_version_id or "")
    return f"{version.dataset.name} v{version.number}" if version else ""


def measured(db: Session, jobs: Sequence[Job]) -> list[Difference]:
    """Of the curves: the last loss, and the best validation loss with its step."""
    last, best, at = [], [], []
    for job in jobs:
        of_job = JobMetric.job_id == job.id
        loss = (
            select(JobMetric.data["loss"])
            .where(of_job, JobMetric.data.has_key("loss"))
            .order_by(JobMetric.step.desc())
        )
        last.append(db.scalar(loss.limit(1)))
        evaluated = select(JobMetric.data["eval_loss"].as_float(), JobMetric.step).where(
            of_job, JobMetric.data.has_key("eval_loss")
        )
        found = db.execute(
            evaluated.order_by(JobMetric.data["eval_loss"].as_float()).limit(1)
        ).first()
        best.append(found[0] if found else None)
        at.append(found[1] if found else None)
    return [
        line("results", "loss", N_("Last training loss"), last),
        line("results", "eval_loss", N_("Best validation loss"), best),
        line("results", "eval_step", N_("At step"), at),
    ]
