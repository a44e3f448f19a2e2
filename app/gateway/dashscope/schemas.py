"""What `/dashscope/api/v1` takes. What its servers take and is of no use here is left aside."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TRAINING = {
    "sft": ("sft", "full"),
    "efficient_sft": ("sft", "lora"),
    "cpt": ("pretrain", "full"),
    "dpo_full": ("dpo", "full"),
    "dpo_lora": ("dpo", "lora"),
}


class Source(BaseModel):
    """A file as training data."""

    data_source_type: Literal["file_id"]
    file_id: str = Field(min_length=1, max_length=100)


class FineTuneCreate(BaseModel):
    """`model_name` (2.x) and `finetuned_output` (1.x) are the same: the tuned model's name."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(min_length=1, max_length=300)
    training_file_ids: list[str] | None = Field(None, max_length=20)
    training_datasets: list[Source] | None = Field(None, max_length=20)
    validation_file_ids: list[str] | None = Field(None, max_length=20)
    validation_datasets: list[Source] | None = Field(None, max_length=20)
    training_type: Literal["cpt", "sft", "efficient_sft", "dpo_full", "dpo_lora"] = "sft"
    hyper_parameters: dict[str, Any] = {}
    job_name: str | None = Field(None, max_length=200)
    model_name: str | None = Field(None, max_length=64)
    finetuned_output: str | None = Field(None, max_length=64)
    finetuned_output_suffix: str | None = Field(None, max_length=32)

    @property
    def training(self) -> list[str]:
        return self.training_file_ids or [one.file_id for one in self.training_datasets or []]

    @property
    def validation(self) -> list[str]:
        return self.validation_file_ids or [one.file_id for one in self.validation_datasets or []]


class DeploymentCreate(BaseModel):
    """A model to serve."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(min_length=1, max_length=300)
    capacity: int = Field(1, ge=1, le=8, description="Replicas.")
    plan: str | None = Field(None, max_length=20)
    suffix: str | None = Field(None, max_length=8, pattern=r"^[a-z0-9-]*$")
    max_context_length: int | None = Field(None, ge=128, description="Tokens: prompt and answer.")
    rpm_limit: int | None = Field(None, ge=0, description="Refused: API keys have limits here.")
    tpm_limit: int | None = Field(None, ge=0)


class Scale(BaseModel):
    """How many replicas there shall be."""

    capacity: int = Field(ge=1, le=8)


class Limits(BaseModel):
    """Requests and tokens a minute."""

    rpm_limit: int | None = Field(None, ge=0)
    tpm_limit: int | None = Field(None, ge=0)
