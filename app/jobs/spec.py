"""What a run is told: `spec.json` of its run directory, and nothing else.

Pure pydantic, so that the console, the API and the stages share one definition.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.jobs.hyperparameters import Hyperparameters

__all__ = [
    "Benchmark",
    "ExportFormat",
    "Hyperparameters",
    "Method",
    "Part",
    "RunSpec",
    "Split",
    "Stage",
]

Stage = Literal["sft", "pretrain", "dpo", "kto", "orpo", "reward", "merge", "export", "evaluate"]
Method = Literal["full", "freeze", "lora", "qlora", ""]
ExportFormat = Literal["f16", "q8_0"]


class Split(BaseModel):
    """Rows of the first dataset that are held back to validate with, chosen by what they say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: float = Field(default=0.1, gt=0, le=0.9, description="The share of the rows.")
    seed: int = Field(default=42, ge=0, lt=2**32, description="The same seed, the same rows.")
    most: int = Field(default=1000, ge=1, le=100_000, description="Rows, at most.")


class Part(BaseModel):
    """One dataset of a mix: `rows` are segment directories, in order. See app.jobs.mixing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    """Id of the version. With the seed it decides which rows are drawn."""
    name: str = ""
    rows: list[str]
    multiplier: float | None = Field(default=None, ge=0.01, le=10)
    share: float | None = Field(default=None, gt=0, lt=100)


class Benchmark(BaseModel):
    """What an `evaluate` run asks: benchmarks by name, as workers.stages.layouts has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[str] = Field(min_length=1)
    data: str
    """Directory of the node in which their files lie."""
    fewshot: int | None = Field(default=None, ge=0, le=32)
    """Examples before each question; None: as many as the task says itself."""
    limit: int | None = Field(default=None, ge=1)
    """Questions of each task, at most."""
    chat: bool = False
    """Whether questions are put into the model's chat template."""


class RunSpec(BaseModel):
    """`spec.json`: all that a stage needs. Paths are absolute and on this node; never edited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    fence: int
    stage: Stage
    method: Method = ""
    base: str
    """Directory: config.json, tokenizer, *.safetensors (none for `pretrain`: random weights)."""
    adapter: str | None = None
    """Directory of the adapter to merge, or to train further."""
    train: list[str] = []
    """Segment directories, in order. Rows {id, messages, tools?}; `pretrain` also {id, text};
    dpo, orpo and reward {id, messages, chosen, rejected}; kto {id, messages, label}."""
    mix: list[Part] = []
    """In place of `train`: several datasets, or one not taken just once. The first is the main."""
    validation: list[str] = []
    split: Split | None = None
    """In place of `validation`: hold back rows of the (main) dataset."""
    drop_leaks: bool = False
    """Leave out validation rows that also stand in the training data."""
    hyperparameters: Hyperparameters = Hyperparameters()
    save_at: list[int] = []
    """Steps whose checkpoints somebody waits for: saved, and not dropped for newer ones."""
    resume_from: str | None = None
    """A complete checkpoint of an earlier attempt at the same job."""
    format: ExportFormat | None = None
    """Of an export: the numbers in the GGUF file."""
    benchmark: Benchmark | None = None
    """What an `evaluate` run asks."""
    report_to: list[Literal["wandb", "swanlab", "mlflow"]] = []
    """Where the run is reported to as well; the environment has the accounts."""
    report_as: dict[str, dict[str, Any]] = {}
    """How it is called there: {wandb: {project, name, entity, tags}}; the environment's if not."""
    device: Literal["cpu", "cuda"] = "cpu"
    devices: int = Field(default=1, ge=1, le=64)
    """Processes, one for each device; torchrun starts them where there are several."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several devices: each holds the whole model, or a share of it."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Of each process."""
    cache: str | None = None
    """Directory of the node for prepared tokens; see workers.stages.tokens."""

    @model_validator(mode="after")
    def fits_its_stage(self) -> Self:
        if self.stage == "merge":
            if not self.adapter:
                raise ValueError("a merge needs an adapter")
        elif self.stage == "export":
            if not self.format:
                raise ValueError("an export needs a format")
        elif self.stage == "evaluate":
            if not self.benchmark:
                raise ValueError("an evaluation needs benchmarks")
        elif bool(self.train) == bool(self.mix) or not self.method:
            raise ValueError("training needs data, given in one way, and a method")
        elif self.strategy == "fsdp" and (
            self.method != "full" or self.stage not in {"sft", "pretrain"}
        ):
            raise ValueError("only full tuning on texts shares a model out over devices")
        elif self.split and self.validation:
            raise ValueError("validation data is either given or held back")
        return self
