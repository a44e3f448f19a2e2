"""The events of a tuning job as OpenAI tells them: newest first, with a cursor.

They are made of what is stored anyway: the row, the events of our job, and its metrics, thinned
where there are very many steps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from app.errors import N_, NotFound
from app.gateway.tuning import names, results, view
from app.gateway.tuning.service import Both
from app.jobs import history, stream
from app.jobs.tables import JobEvent, JobMetric

POINTS = 1000  # steps that are told, about
CURSOR = re.compile(r"ftevent-([abcdems])-?(\d{0,15})\Z")

CREATED = N_("Created fine-tuning job: %(id)s")
VALIDATING = N_("Validating training file: %(training)s")
VALIDATING_BOTH = N_("Validating training file: %(training)s and validation file: %(validation)s")
STATES = {
    "queued": N_("Files validated, moving job to queued state"),
    "running": N_("Fine-tuning job started"),
    "paused": N_("Fine-tuning job paused"),
    "cancelled": N_("Fine-tuning job cancelled"),
    "succeeded": N_("The job has successfully completed"),
}
MADE = N_("New fine-tuned model created: %(name)s")
STEP = N_("Step %(step)s/%(total)s: training loss=%(loss)s")
STEP_VALIDATED = N_("Step %(step)s/%(total)s: training loss=%(loss)s, validation loss=%(valid)s")


@dataclass(frozen=True)
class Event:
    at: float  # seconds
    id: str
    message: str
    params: dict[str, Any] = field(default_factory=dict)
    level: str = "info"
    data: dict[str, Any] | None = None  # of metrics

    @property
    def place(self) -> tuple[float, str]:
        return self.at, self.id


def listed(
    db: Session, both: Both, say: stream.Say, *, after: str = "", limit: int = 20
) -> tuple[list[dict[str, Any]], bool]:
    """Those that came before the event `after`, the newest first; and whether there are more."""
    found = sorted(all_of(db, both, say), key=lambda one: one.place, reverse=True)
    if after:
        at = place_of(db, both, found, after)
        found = [one for one in found if one.place < at]
    return [out(one, say) for one in found[:limit]], len(found) > limit


def place_of(db: Session, both: Both, found: list[Event], after: str) -> tuple[float, str]:
    """Where an event stands; one of a step also if it is not told any more. Raises NotFound."""
    for one in found:
        if one.id == after:
            return one.place
    match = CURSOR.match(after)
    if match and match[1] == "m" and both.job and len(match[2]) < 10:
        metric = db.get(JobMetric, (both.job.id, int(match[2])))
        if metric is not None:
            return float(metric.data.get("t") or 0), after
    raise NotFound(N_("There is no such event: %(id)s"), field="after", id=after[:100])


def out(one: Event, say: stream.Say) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": one.id,
        "created_at": int(one.at),
        "level": one.level,
        "message": say(one.message, one.params),
        "type": "metrics" if one.data else "message",
        "data": one.data or {},
    }


def all_of(db: Session, both: Both, say: stream.Say) -> Iterator[Event]:
    row, job = both.row, both.job
    began = row.created_at.timestamp()
    yield Event(began, "ftevent-a", CREATED, {"id": row.id})
    training, validation = (", ".join(one) for one in (row.training_files, row.validation_files))
    message = VALIDATING_BOTH if validation else VALIDATING
    yield Event(began, "ftevent-b", message, {"training": training, "validation": validation})
    if job is None:
        yield from refused(both, say)
        return
    for event in history.events(db, job.id):
        yield from of_event(db, both, event, say)
    lines, _ = history.metrics_after(db, job.id, 0, points=POINTS)
    last = job.created_at.timestamp()
    for line in lines:
        if "loss" in line:
            last = float(line.get("t") or last)
            yield of_step(line, last, job.total)


def refused(both: Both, say: stream.Say) -> Iterator[Event]:
    """Of a job that never was one of ours: what was wrong, or that it was cancelled."""
    row = both.row
    if row.finished_at is None:
        return
    at = row.finished_at.timestamp()
    if row.error:
        error = view.told(row, say)
        yield Event(at, "ftevent-c", "%(told)s", {"told": error["message"]}, "error")
    else:
        yield Event(at, "ftevent-d", STATES["cancelled"])


def of_event(db: Session, both: Both, event: JobEvent, say: stream.Say) -> Iterator[Event]:
    """An event of our job. Samples and checkpoints have other places."""
    at, name = event.at.timestamp(), f"ftevent-e-{event.id:015}"
    new = str(event.params.get("new") or "")
    if event.kind == "state" and new in STATES and not (new == "queued" and event.fence):
        if new == "succeeded" and both.job and both.job.result_model_id:
            made = names.of(db, both.row.workspace_id, both.job.result_model_id)
            if made:
                yield Event(at - 0.001, f"ftevent-s-{event.id:015}", MADE, {"name": made})
        yield Event(at, name, STATES[new])
    elif event.kind == "state" and new == "failed" and both.job:
        error = stream.error_of(both.job, say) or {"message": say(event.message, event.params)}
        yield Event(at, name, "%(told)s", {"told": error["message"]}, "error")
    elif event.kind not in ("sample", "checkpoint"):
        level = "warn" if event.kind == "warning" else "info"
        yield Event(at, name, event.message, event.params, level)


def of_step(line: dict[str, Any], at: float, total: int) -> Event:
    """A step of training, with its validation if there was one."""
    valid = results.measured(line, results.COLUMNS["valid_loss"])
    data = {
        "step": line["step"],
        "total_steps": total,
        "train_loss": line["loss"],
        "train_mean_token_accuracy": results.measured(line, results.COLUMNS["train_accuracy"]),
        "valid_loss": valid,
        "full_valid_loss": valid,
        "valid_mean_token_accuracy": results.measured(
            line, results.COLUMNS["valid_mean_token_accuracy"]
        ),
    }
    params = {
        "step": line["step"],
        "total": total,
        "loss": rounded(line["loss"]),
        "valid": rounded(valid),
    }
    return Event(
        at,
        f"ftevent-m-{line['step']:09}",
        STEP if valid is None else STEP_VALIDATED,
        params,
        data={name: value for name, value in data.items() if value is not None},
    )


def rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
