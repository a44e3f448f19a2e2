"""What will happen if this job is started, each figure with its calculation.

The page beside the form shows it, `POST /api/v1/jobs/estimate` answers it, and a job keeps it, so
that what was then measured can stand beside it (see app.jobs.learning).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import storage
from app.datasets.measures import service as measures
from app.datasets.measures import statistics
from app.datasets.tables import DatasetMeasure, DatasetVersion
from app.errors import N_, DomainError, Invalid
from app.jobs import costs, estimates, fitting, learning, memory, methods
from app.jobs.data import Data
from app.jobs.schemas import JobCreate
from app.jobs.spec import Hyperparameters
from app.models import chat_template
from app.models.tables import Model

TEMPLATED = ("sft", "dpo", "orpo", "kto", "reward")  # stages that put conversations into words
TWO_ANSWERS = ("dpo", "orpo", "reward")
START = 20.0  # seconds until the first step: libraries, weights, tokens
EVALUATION = 1 / 3  # of a training pass
# Of float operations per second: what the maker names for bfloat16, dense, by a part of the name.
NOMINAL = {
    "H200": 990e12, "H100": 990e12, "H800": 990e12, "H20": 148e12, "B200": 2250e12,
    "A100": 312e12, "A800": 312e12, "L40": 181e12, "L20": 119e12, "A10": 125e12, "A30": 165e12,
    "4090": 165e12, "5090": 210e12, "3090": 71e12, "V100": 112e12, "T4": 65e12,
}  # fmt: skip
TAUGHT = {
    "": N_("a rough guess by what the device is built for: no job like it has run here"),
    "base": N_("as %(jobs)s finished jobs with this model, method and device have taught"),
    "method": N_("as %(jobs)s finished jobs with this method and device have taught"),
    "kind": N_("as %(jobs)s finished jobs on this kind of device have taught"),
}
UNKNOWN_GPU, CORE = 100e12, 30e9
REACHED = 0.3  # of it, in training


@dataclass(frozen=True)
class Line:
    """A figure, and in a sentence how it comes about."""

    name: str
    value: float | None
    words: str
    params: dict[str, Any] = field(default_factory=dict)
    measured: bool = False
    parts: list[memory.Part] = field(default_factory=list)
    unit: str = ""


@dataclass(frozen=True)
class Forecast:
    preview: estimates.Preview
    lines: list[Line]
    fit: fitting.Fit
    refusal: DomainError | None  # why it cannot succeed
    measuring: float | None  # progress, while rows are being counted in the model's tokens
    stored: dict[str, Any]  # for the job's row

    def line(self, name: str) -> Line:
        return next(line for line in self.lines if line.name == name)


@dataclass(frozen=True)
class Rows:
    """What becomes of the rows of an epoch; None where nobody has counted."""

    dropped: int | None
    truncated: int | None
    longest: int  # tokens
    error: DomainError | None
    measuring: float | None


def forecast(
    db: Session,
    workspace_id: str,
    model: Model,
    chosen: Data,
    settings: Hyperparameters,
    *,
    stage: str,
    method: str,
    devices: int = 1,
    ask: bool = True,
) -> Forecast:
    """`ask`: have rows counted that nobody has counted yet. Raises Invalid as `estimates.preview`."""
    base = db.get_one(Model, model.base_id) if model.kind == "adapter" else model
    preview = estimates.preview(db, workspace_id, model.id, chosen, settings)
    config = config_of(base)
    most = min(settings.max_length, context_of(config) or base.context_length or 10**9)
    rows = counted(db, base, preview, most, stage=stage, ask=ask)
    target = fitting.target(db, devices)
    kind, name = (target.kind, target.model) if target else ("cpu", "")
    like = {"base": base.id, "method": method, "device": name, "kind": kind}
    learnt = learning.corrections(db, like)
    chosen_settings = settings.model_dump()
    made = memory.shape(config, base.parameters)
    # as workers.starting decides it: shared out where full tuning fits no single device
    room = 0.8 * target.memory if target else 0
    shares = methods.shares(stage, method)
    sharded = devices > 1 and shares and 16 * made.parameters > room
    run = fitting.Run(
        shape=made, method=method, settings=chosen_settings, kind=kind, longest=rows.longest,
        devices=devices, shares=shares, sharded=sharded, second=stage in TWO_ANSWERS,
        ratio=learnt["peak_memory"].ratio,
    )  # fmt: skip
    fit = fitting.fit(db, workspace_id, run, target)
    lines = [
        *row_lines(preview, rows, settings),
        memory_line(run, learnt["peak_memory"]),
        *time_lines(
            db, preview, run, target, learnt["tokens_per_second"], settings, workspace_id, model
        ),
    ]
    values = {line.name: line.value for line in lines}
    stored = like | values | {
        "devices": devices,
        "currency": lines[-1].unit,
        "raw": {"peak_memory": run.bare, "tokens_per_second": speed(run, target)},
        "counted": rows.dropped is not None,
        "learnt": {key: one.jobs for key, one in learnt.items()},
    }  # fmt: skip
    refusal = rows.error or no_template(base, stage) or fit.refusal
    return Forecast(preview, lines, fit, refusal, rows.measuring, stored)


def of(
    db: Session, workspace_id: str, model: Model, chosen: Data, body: JobCreate, *, ask: bool = True
) -> Forecast:
    """Of a job as it was asked for. Raises Invalid."""
    return forecast(
        db,
        workspace_id,
        model,
        chosen,
        body.hyperparameters,
        stage=body.stage,
        method=body.method,
        devices=body.devices,
        ask=ask,
    )


# -- the model -----------------------------------------------------------------------------


def config_of(base: Model) -> dict[str, Any]:
    """Empty where the store does not have it just now."""
    try:
        directory = storage.fetch(base.artefact, without=(".safetensors",))
        found = orjson.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def context_of(config: dict[str, Any]) -> int | None:
    found = (config.get("text_config") or config).get("max_position_embeddings")
    return found if isinstance(found, int) and found > 0 else None


def no_template(base: Model, stage: str) -> DomainError | None:
    if stage not in TEMPLATED:
        return None
    try:
        if chat_template.load(measures.words_of(base.artefact)) is not None:
            return None
    except DomainError as error:
        return error
    except OSError:  # the store is away: the run will tell
        return None
    return Invalid(
        N_("The model has no chat template, so conversations cannot be put into its words."),
        code="no_chat_template",
        field="model",
    )


# -- rows ----------------------------------------------------------------------------------


def counted(
    db: Session, base: Model, preview: estimates.Preview, most: int, *, stage: str, ask: bool
) -> Rows:
    """Of an epoch, rows that train nothing and rows that are cut, as the datasets' measures know."""
    dropped = truncated = 0
    longest, known, measuring = 0, True, None
    lost: list[tuple[DatasetVersion, Any, int]] = []
    for part in preview.parts:
        version = part.item.version
        one = measure_of(db, version, base, ask=ask)
        if one is not None and one.state in (measures.QUEUED, measures.RUNNING):
            measuring = min(one.progress, 1.0 if measuring is None else measuring)
        if one is None or one.state != measures.DONE or not one.result:
            known = False
            continue
        cut = statistics.cut(one, most)
        each = part.effective / max(1, version.rows)
        dropped += round(cut.untrained * each)
        truncated += round(cut.truncated * each)
        longest = max(longest, min(most, int(one.result["max"])))
        lost.append((version, cut, int(one.result["rows"])))
    error = None
    if (
        known
        and lost
        and stage != "pretrain"
        and all(cut.untrained >= rows for _, cut, rows in lost)
    ):
        error = nothing_to_train(lost, most)
    if not known:
        return Rows(None, None, max(longest, min(most, 2048)), error, measuring)
    return Rows(dropped, truncated, max(longest, 1), error, measuring)


def measure_of(
    db: Session, version: DatasetVersion, base: Model, *, ask: bool
) -> DatasetMeasure | None:
    try:
        found = measures.find(db, version, base)
        if found is None and ask and statistics.automatic(version):
            found = measures.ask(db, version, base)
    except DomainError:
        return None
    return found


def nothing_to_train(lost: list[tuple[DatasetVersion, Any, int]], most: int) -> DomainError:
    if all(cut.late == cut.untrained for _, cut, _ in lost):
        return Invalid(
            N_(
                "Every row is cut before its first answer. Raise the maximum length above"
                " %(max_length)s tokens."
            ),
            code="nothing_to_train",
            field="max_length",
            max_length=most,
        )
    return Invalid(
        N_(
            "No row of this data trains anything with this model. The dataset's statistics page"
            " lists the rows and the reasons."
        ),
        code="nothing_to_train",
        field="dataset",
    )


def row_lines(preview: estimates.Preview, rows: Rows, settings: Hyperparameters) -> list[Line]:
    found = preview.estimate
    uncounted = N_("Not counted yet: rows are counted in the model's tokens once.")
    steps = (
        Line("steps", found.steps, N_("as the maximum steps say"))
        if settings.max_steps
        else Line(
            "steps",
            found.steps,
            N_(
                "%(epochs)s epochs x %(each)s steps, which are %(rows)s rows / %(batch)s a step"
                " (batch size x gradient accumulation), rounded up"
            ),
            {
                "epochs": f"{settings.epochs:g}",
                "each": f"{found.steps_per_epoch:,}",
                "rows": f"{found.rows:,}",
                "batch": f"{found.rows_per_step:,}",
            },
        )
    )
    passes = found.steps / max(1, found.steps_per_epoch)
    return [
        Line("rows", preview.rows, N_("rows of an epoch, once validation rows are held back"),
             measured=True),
        Line("dropped", rows.dropped,
             uncounted if rows.dropped is None
             else N_("rows without an answer to learn, or cut before it"),
             measured=rows.dropped is not None),
        Line("truncated", rows.truncated,
             uncounted if rows.truncated is None
             else N_("rows longer than %(max_length)s tokens, cut there"),
             {"max_length": f"{settings.max_length:,}"}, measured=rows.truncated is not None),
        Line(
            "tokens",
            round(preview.tokens * passes),
            N_("%(each)s tokens of an epoch x %(passes)s epochs, as counted")
            if preview.measured
            else N_("%(each)s tokens of an epoch x %(passes)s epochs, by the size of the text"),
            {"each": f"{preview.tokens:,}", "passes": f"{passes:.3g}"},
            measured=preview.measured,
        ),
        steps,
    ]  # fmt: skip


# -- memory, time, money -------------------------------------------------------------------


def memory_line(run: fitting.Run, learnt: learning.Correction) -> Line:
    words = N_("the parts below")
    if learnt.jobs:
        words = N_("the parts below x %(ratio)s, as %(jobs)s finished jobs like it have taught")
    params = {"ratio": f"{learnt.ratio:.2f}", "jobs": learnt.jobs}
    return Line("peak_memory", run.need, words, params, parts=run.parts, unit="bytes")


def speed(run: fitting.Run, target: fitting.Target | None) -> float:
    """Tokens per second by the formula alone: what the device can do, over what a token takes.

    A token takes 2 operations per parameter forward and 4 back; without the gradients of frozen
    weights 2 back; recomputing takes 2 more.
    """
    kind, name, cores = ("cpu", "", 1) if target is None else (
        target.kind, target.model, target.cores
    )  # fmt: skip
    able = CORE * max(1, cores)
    if kind == "cuda":
        known = next((able for part, able in NOMINAL.items() if part in name), UNKNOWN_GPU)
        able = known * REACHED
    frozen = run.method in memory.ADAPTERS
    each = (4 if frozen else 6) + (2 if run.settings.get("gradient_checkpointing") else 0)
    learnt = memory.trained(run.shape, run.method, run.settings) if frozen else 0
    return run.devices * able / max(1.0, each * run.shape.parameters + 6.0 * learnt)


def time_lines(
    db: Session,
    preview: estimates.Preview,
    run: fitting.Run,
    target: fitting.Target | None,
    learnt: learning.Correction,
    settings: Hyperparameters,
    workspace_id: str,
    model: Model,
) -> list[Line]:
    found = preview.estimate
    pace = speed(run, target) * learnt.ratio
    tokens = preview.tokens * found.steps / max(1, found.steps_per_epoch)
    mean = preview.tokens / max(1, preview.rows)
    every = settings.eval_steps or found.steps_per_epoch
    evaluations = math.ceil(found.steps / max(1, every)) if preview.validation_rows else 0
    looked = preview.validation_rows * mean * evaluations
    seconds = START + (tokens + looked * EVALUATION) / pace
    hours = seconds / 3600 * run.devices
    cost = costs.of(db, workspace_id, model, target.model if target else "", hours, tokens)
    known = {"tokens": f"{pace:,.0f}", "jobs": learnt.jobs}
    return [
        Line(
            "tokens_per_second",
            round(pace, 1),
            TAUGHT[learnt.alike],
            known,
        ),
        Line(
            "seconds",
            round(seconds),
            N_(
                "%(start)s s to begin + (%(tokens)s trained tokens + %(looked)s evaluated ones / 3)"
                " / %(pace)s a second"
            ),
            {
                "start": f"{START:g}",
                "tokens": f"{tokens:,.0f}",
                "looked": f"{looked:,.0f}",
                "pace": f"{pace:,.0f}",
            },
            unit="seconds",
        ),
        Line(
            "device_hours",
            round(hours, 4),
            N_("%(devices)s devices x %(minutes)s minutes / 60"),
            {"devices": run.devices, "minutes": f"{seconds / 60:.1f}"},
        ),
        Line(
            "cost",
            cost.value,
            cost.words,
            dict(cost.params),
            unit=cost.currency,
        ),
    ]
