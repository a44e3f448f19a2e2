"""What `/api/v1/jobs` and the form take, and what they answer."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.jobs.spec import Hyperparameters, complete
from app.jobs.tables import Job

NAME = 64  # characters


def defaults_of(method: Any) -> dict[str, Any]:
    """Every hyperparameter as it is when left out; the learning rate depends on the method."""
    return complete("full" if method == "full" else "lora", {}).model_dump()


class JobCreate(BaseModel):
    """A tuning run. `model`, `dataset` and `validation` are ids; a model's name will do too."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(
        "", max_length=NAME, description="Also the tuned model's name; empty: made from the model."
    )
    model: str = Field(min_length=1, max_length=200)
    dataset: str = Field(min_length=1, max_length=200)
    validation: str | None = Field(None, max_length=200)
    stage: Literal["sft"] = "sft"
    method: Literal["lora", "full"] = "lora"
    hyperparameters: Hyperparameters = Hyperparameters()

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
        return data | {"hyperparameters": defaults_of(data.get("method")) | given}


class JobForm(Hyperparameters):
    """The same as one flat form; fields left empty are left out."""

    name: str = ""
    model: str
    dataset: str
    validation: str | None = None
    method: Literal["lora", "full"] = "lora"

    @model_validator(mode="before")
    @classmethod
    def complete_hyperparameters(cls, data: dict[str, Any]) -> dict[str, Any]:
        return defaults_of(data.get("method")) | data

    def job(self) -> JobCreate:
        values = self.model_dump()
        hyperparameters = {name: values.pop(name) for name in Hyperparameters.model_fields}
        return JobCreate(**values, hyperparameters=hyperparameters)


class MergeCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=NAME)


class JobOut(BaseModel):
    """`reason` says why a queued job waits: quota, devices, memory or node; `error` is a sentence
    with a code; `result_model` is the model that a succeeded job made. Times are UTC.
    """

    id: str
    name: str
    stage: str
    method: str
    model: str
    dataset: str | None
    validation: str | None
    hyperparameters: dict[str, Any]
    state: str
    reason: str
    phase: str
    step: int
    total: int
    node: str | None
    retries: int
    error: dict[str, Any] | None
    result_model: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job, reason: str, error: dict[str, Any] | None) -> Self:
        return cls(
            id=job.id,
            name=job.name,
            stage=job.stage,
            method=job.method,
            model=job.model_id,
            dataset=job.dataset_version_id,
            validation=job.validation_version_id,
            hyperparameters=job.spec,
            state=job.state,
            reason=reason,
            phase=job.phase,
            step=job.step,
            total=job.total,
            node=job.node_id,
            retries=job.retries,
            error=error,
            result_model=job.result_model_id,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


class Jobs(BaseModel):
    data: list[JobOut]
    has_more: bool


class Metrics(BaseModel):
    """One entry per step: {step, epoch, loss, lr, grad_norm, tokens, t, eval_loss?}."""

    data: list[dict[str, Any]]
    has_more: bool = False
