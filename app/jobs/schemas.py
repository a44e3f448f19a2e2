"""What `/api/v1/jobs` and the form take, and what they answer."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from app.cluster import labels
from app.jobs import data, methods
from app.jobs.estimates import Preview
from app.jobs.evaluating import EvaluationFields, JobEvaluation
from app.jobs.leaks import Found
from app.jobs.priorities import PRIORITIES, Priority
from app.jobs.spec import Hyperparameters, Split
from app.jobs.tables import Job
from app.jobs.waiting import Wait

NAME = 64  # characters
SERVED = r"^[a-z0-9][a-z0-9._-]*$"  # what a model at /v1 may be called
AUTO = "auto"  # validation on rows held back
DATASETS = 20  # in one mix
TuningStage = Literal["sft", "pretrain", "dpo", "kto", "orpo", "reward"]
TuningMethod = Literal["lora", "qlora", "freeze", "full"]


def defaults(stage: Any, method: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the hyperparameters, those that a stage and a method have of their own."""
    return methods.defaults(
        str(stage or "sft"), str(method or "lora"), dpo_loss=given.get("dpo_loss")
    )


Reporter = Literal["wandb", "swanlab", "mlflow"]


class MixItem(BaseModel):
    """A dataset of a mix. `multiplier` times its rows are in an epoch: 2.5 is every row twice and
    half of them once more. Or `share`: the percentage of the epoch's rows that it makes up; those
    with a multiplier make up the rest, and the first always has one.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    dataset: str = Field(min_length=1, max_length=200)
    version: str | int | None = Field(None, description="Its number or id; the newest if left out.")
    multiplier: float | None = Field(None, ge=0.01, le=10, description="1 if left out.")
    share: float | None = Field(None, gt=0, lt=100)


Label = Annotated[str, Field(max_length=63)]


class JobCreate(BaseModel):
    """A tuning run. `model`, `dataset` and `validation` are ids; a model's name will do too, and
    so will a checkpoint of an earlier job: `job_…/checkpoint-120`.

    `dataset` is one dataset; `datasets` is a mix of several, the main one first. `validation` is
    another dataset, or `{"split": 0.1}` to hold back rows of the (main) dataset, or "auto", which
    is the same; none if left out.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(
        "", max_length=NAME, description="Also the tuned model's name; empty: made from the model."
    )
    model: str = Field(min_length=1, max_length=200)
    dataset: str | None = Field(None, min_length=1, max_length=200)
    datasets: list[MixItem] | None = Field(None, min_length=1, max_length=DATASETS)
    validation: Annotated[str, Field(max_length=200)] | Split | None = None
    drop_leaks: bool = Field(
        False, description="Leave out validation rows that stand in the training data too."
    )
    stage: TuningStage = "sft"
    method: TuningMethod = "lora"
    devices: int = Field(1, ge=1, le=64, description="On one node; each takes a share of a step.")
    device_model: str = Field(
        "", max_length=200, description="Only on devices of this model; empty: on any."
    )
    labels: dict[Label, Label] = Field(
        {}, max_length=32, description="Of nodes: it runs only where a node has all of them."
    )
    priority: Priority = Field(
        "normal",
        description="Above normal is for the workspace's admins, urgent for the platform's.",
    )
    hyperparameters: Hyperparameters = Hyperparameters()
    webhook: str = Field(
        "", max_length=2000, description="An address that is told when the job is over."
    )
    deploy: str = Field(
        "",
        max_length=63,
        pattern=rf"^$|{SERVED}",
        description="Deploy the result at once, as the model of this name at /v1.",
    )
    evaluation: JobEvaluation | None = Field(
        None, description="Ask the result the rows of a dataset, and say whether it is better."
    )
    report_to: list[Reporter] = Field(
        [],
        max_length=3,
        description="Also report there: with your token, the workspace's, or the node's.",
    )

    @field_validator("name")
    @classmethod
    def printable(cls, name: str) -> str:
        return "".join(char for char in name if char.isprintable())

    @model_validator(mode="before")
    @classmethod
    def complete_hyperparameters(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = data.get("hyperparameters") or {}
        if not isinstance(given, dict):
            return data
        usual = defaults(data.get("stage"), data.get("method"), given)
        return data | {"hyperparameters": usual | given}


def several(value: Any) -> Any:
    """Boxes of one name: a form says one that is ticked by itself."""
    return [value] if isinstance(value, str) else value


class JobForm(EvaluationFields, Hyperparameters):
    """The same as one flat form; fields left empty are left out.

    `multiplier` is of `dataset`; further datasets of a mix are fields `more-1`, `amount-1`, `by-1`
    (multiplier or share), and so on.
    """

    name: str = ""
    model: str
    dataset: str
    datasets: list[MixItem] = Field([], max_length=DATASETS)
    validation: str | None = None
    split: float = Field(10, gt=0, le=90)  # %
    split_most: int = Field(1000, ge=1, le=100_000)
    split_seed: int = Field(42, ge=0, lt=2**32)
    drop_leaks: bool = False
    stage: TuningStage = "sft"
    method: TuningMethod = "lora"
    devices: int = Field(1, ge=1, le=64)
    device_model: str = Field("", max_length=200)
    labels: dict[Label, Label] = Field({}, max_length=32)
    priority: Priority = "normal"
    webhook: str = Field("", max_length=2000)
    deploy: str = Field("", max_length=63, pattern=rf"^$|{SERVED}")
    report_to: Annotated[list[Reporter], BeforeValidator(several)] = []

    @model_validator(mode="before")
    @classmethod
    def complete_hyperparameters(cls, typed: dict[str, Any]) -> dict[str, Any]:
        rest = {
            name: value
            for name, value in labels.from_form(typed).items()
            if name != "multiplier" and not name.startswith(("more-", "amount-", "by-"))
        }
        main = {"dataset": typed.get("dataset"), "multiplier": typed.get("multiplier", 1)}
        items = [main]
        for number in more_of(typed):
            by = "share" if typed.get(f"by-{number}") == "share" else "multiplier"
            amount = typed.get(f"amount-{number}", "" if by == "share" else 1)
            items.append({"dataset": typed.get(f"more-{number}"), by: amount})
        usual = defaults(typed.get("stage"), typed.get("method"), typed)
        return usual | rest | {"datasets": items}

    def job(self) -> JobCreate:
        kept = {
            "name",
            "model",
            "stage",
            "method",
            "devices",
            "device_model",
            "labels",
            "priority",
            "drop_leaks",
            "webhook",
            "report_to",
            "deploy",
        }
        values = self.model_dump(include=kept)
        if len(self.datasets) > 1 or self.datasets[0].multiplier != 1:
            values["datasets"] = self.datasets
        else:
            values["dataset"] = self.dataset
        values["evaluation"] = self.evaluation()
        values["validation"] = self.validation
        if self.validation == AUTO:
            values["validation"] = Split(
                split=self.split / 100, most=self.split_most, seed=self.split_seed
            )
        hyperparameters = self.model_dump(include=set(Hyperparameters.model_fields))
        return JobCreate(**values, hyperparameters=hyperparameters)


def more_of(values: Mapping[str, Any]) -> list[int]:
    """The numbers of the further datasets in a form; a row that names none is left out."""
    found = (re.fullmatch(r"more-(\d{1,3})", name) for name in values if values[name])
    return sorted({int(match[1]) for match in found if match})


class PreviewPart(BaseModel):
    """`rows` are there once some are held back; an epoch has `effective_rows` of them."""

    dataset: str
    name: str
    rows: int
    multiplier: float | None
    share: float | None
    effective_rows: int
    tokens: int
    tokens_measured: bool


class PreviewLeaks(BaseModel):
    """Of `validation_rows`, those that the training data has too: `leaks`, of which `whole` are
    there with their answers. `too_large`: looked at when the job starts.
    """

    complete: bool
    too_large: bool
    validation_rows: int
    leaks: int
    whole: int
    examples: list[dict[str, Any]]


class PreviewOut(BaseModel):
    """An epoch, and the steps in all. Tokens that are not measured are guessed by the text's size."""

    datasets: list[PreviewPart]
    rows: int
    tokens: int
    tokens_measured: bool
    validation_rows: int
    steps_per_epoch: int
    steps: int
    leaks: PreviewLeaks

    @classmethod
    def of(cls, found: Preview, look: Found) -> Self:
        parts = [
            PreviewPart(
                dataset=part.item.version.id,
                name=part.item.version.dataset.name,
                rows=part.rows,
                multiplier=part.item.multiplier,
                share=part.item.share,
                effective_rows=part.effective,
                tokens=part.tokens,
                tokens_measured=part.measured,
            )
            for part in found.parts
        ]
        return cls(
            datasets=parts,
            rows=found.rows,
            tokens=found.tokens,
            tokens_measured=found.measured,
            validation_rows=found.validation_rows,
            steps_per_epoch=found.estimate.steps_per_epoch,
            steps=found.estimate.steps,
            leaks=PreviewLeaks(
                complete=look.complete,
                too_large=look.too_large,
                validation_rows=look.validation_rows,
                leaks=look.leaks,
                whole=look.whole,
                examples=[vars(one) for one in look.examples],
            ),
        )


class MergeCreate(BaseModel):
    """The name of the merged model; made from the adapter if left out."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=NAME)


class JobWaiting(BaseModel):
    """`position` in the queue is from 1, of `queue` in all; `starts_at` is an estimate."""

    model_config = ConfigDict(from_attributes=True)

    reason: str
    position: int | None
    queue: int
    starts_at: datetime | None


class PriorityChange(BaseModel):
    """Of a job that waits, or of a deployment: how urgent it is when devices are short."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class JobOut(BaseModel):
    """`reason` says why a queued job waits: quota, member_quota, devices, memory, node or
    preempting (others make room); `waiting` where it stands; `error` is a sentence
    with a code; `result_model` is the model that a succeeded job made. Times are UTC. `dataset` is
    the version trained on, of a mix the main one; `datasets` are all: {dataset, multiplier | share}.
    `estimate` is what was expected when the job was asked for, `outcome` what was then measured, in
    the same words. `finishing`: it stops at the next step and keeps its result. `keep`: nothing of
    it is cleared away by itself.
    """

    id: str
    name: str
    stage: str
    method: str
    model: str
    dataset: str | None
    datasets: list[dict[str, Any]]
    validation: str | dict[str, Any] | None
    hyperparameters: dict[str, Any]
    device_model: str | None
    priority: str
    labels: dict[str, str]
    state: str
    reason: str
    waiting: JobWaiting | None
    phase: str
    step: int
    total: int
    node: str | None
    retries: int
    error: dict[str, Any] | None
    finishing: bool
    keep: bool
    report_to: list[str]
    evaluation: dict[str, Any] | None
    estimate: dict[str, Any] | None
    outcome: dict[str, Any] | None
    result_model: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(
        cls, job: Job, reason: str, error: dict[str, Any] | None, wait: Wait | None = None
    ) -> Self:
        return cls(
            id=job.id,
            name=job.name,
            stage=job.stage,
            method=job.method,
            model=job.start or job.model_id,
            dataset=job.dataset_version_id,
            datasets=data.items_of(job),
            validation=job.mix.get("split") or job.validation_version_id,
            hyperparameters=job.spec,
            device_model=job.device_model,
            priority=PRIORITIES[job.priority],
            labels=job.labels,
            state=job.state,
            reason=reason,
            waiting=JobWaiting.model_validate(wait) if wait else None,
            phase=job.phase,
            step=job.step,
            total=job.total,
            node=job.node_id,
            retries=job.retries,
            error=error,
            finishing=job.finishing,
            keep=job.keep,
            report_to=job.report_to,
            evaluation=job.evaluation,
            estimate=job.estimate,
            outcome=job.outcome,
            result_model=job.result_model_id,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


class Jobs(BaseModel):
    """Jobs, the newest first."""

    data: list[JobOut]
    has_more: bool


class Metrics(BaseModel):
    """One entry per step: {step, epoch, loss, lr, grad_norm, tokens, t, eval_loss?}."""

    data: list[dict[str, Any]]
    has_more: bool = False
