"""What a run is told: `spec.json` of its run directory, and nothing else.

Pure pydantic, so that the console, the API and the stages share one definition. Titles and
descriptions are msgids: the form shows them in the reader's language.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.errors import N_

Stage = Literal["sft", "pretrain", "merge"]
Method = Literal["lora", "full", ""]


class Hyperparameters(BaseModel):
    """The choices of one tuning run. The defaults suit a LoRA fine-tune; see `complete`.

    A step is one update of the weights. It takes `batch_size * gradient_accumulation` rows, and
    its loss is the mean over all trained tokens of the step, however the rows are cut into
    forward passes and spread over devices: 8 x 1 and 1 x 8 give the same curve. An answer of
    weight 0.3 pulls 0.3 times as hard as one of weight 1, whatever else is in its step: weights
    multiply the loss of tokens, and do not change what their sum is divided by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(
        default=3.0,
        gt=0,
        le=1000,
        title=N_("Epochs"),
        description=N_("How many times training goes through the dataset."),
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        title=N_("Maximum steps"),
        description=N_("Run exactly this many steps, whatever the epochs say."),
    )
    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        le=1,
        title=N_("Learning rate"),
        description=N_("The highest rate. LoRA likes 1e-4 to 5e-4, full tuning 1e-6 to 5e-5."),
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine",
        title=N_("Learning rate schedule"),
        description=N_("How the rate falls after the warm-up."),
    )
    warmup_ratio: float = Field(
        default=0.03,
        ge=0,
        le=1,
        title=N_("Warm-up"),
        description=N_("The share of all steps over which the rate rises from 0."),
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        le=4096,
        title=N_("Batch size"),
        description=N_("Rows in one forward pass, at most."),
    )
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        le=4096,
        title=N_("Gradient accumulation"),
        description=N_("Batches in one step; more of them need no more memory."),
    )
    batch_tokens: int = Field(
        default=16_384,
        ge=16,
        le=10_000_000,
        title=N_("Tokens in a batch"),
        description=N_(
            "Tokens in one forward pass, padding included, at most: the setting that bounds memory."
        ),
    )
    max_length: int = Field(
        default=2048,
        ge=8,
        le=1_048_576,
        title=N_("Maximum length"),
        description=N_("Longer rows are cut at this many tokens."),
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title=N_("Weight decay"),
        description=N_("How strongly weights are pulled towards 0."),
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        title=N_("Maximum gradient norm"),
        description=N_("Larger gradients are scaled down to this norm."),
    )
    lora_rank: int = Field(
        default=16,
        ge=1,
        le=512,
        title=N_("LoRA rank"),
        description=N_("The rank of the adapter's matrices: more can learn more."),
    )
    lora_alpha: float = Field(
        default=32,
        gt=0,
        le=4096,
        title=N_("LoRA alpha"),
        description=N_("The adapter's output is scaled by alpha / rank."),
    )
    lora_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title=N_("LoRA dropout"),
        description=N_("The share of the adapter's inputs that is dropped while training."),
    )
    gradient_checkpointing: bool = Field(
        default=False,
        title=N_("Gradient checkpointing"),
        description=N_("Compute activations twice: about a third slower, far less memory."),
    )
    seed: int = Field(
        default=42,
        ge=0,
        lt=2**32,
        title=N_("Seed"),
        description=N_("The same seed, data and settings give the same curve."),
    )
    logging_steps: int = Field(
        default=1,
        ge=1,
        le=100_000,
        title=N_("Log every"),
        description=N_("Steps between two lines of the log. The curve has every step."),
    )
    train_on: Literal["answers", "all", "last"] = Field(
        default="answers",
        title=N_("Train on"),
        description=N_(
            "The tokens that carry loss: all answers of the assistant, every token of the"
            " conversation, or the last answer alone."
        ),
    )
    packing: Literal["auto", "off", "isolated"] = Field(
        default="auto",
        title=N_("Packing"),
        description=N_(
            "Rows laid end to end without padding, none of them seeing another (isolated), or side"
            " by side, padded to the longest. Auto packs wherever the model allows it."
        ),
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        title=N_("Precision"),
        description=N_(
            "What is computed with; trained weights stay in 32 bits. Auto takes bf16 where the"
            " device has instructions for it."
        ),
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        title=N_("Early stopping"),
        description=N_("Stop after this many evaluations without a lower loss; empty: never."),
    )
    keep_best: bool = Field(
        default=True,
        title=N_("Keep the best"),
        description=N_(
            "With validation data the result is the model of the evaluation with the lowest loss,"
            " not that of the last step."
        ),
    )
    sample_prompts: list[Annotated[str, Field(min_length=1, max_length=4000)]] = Field(
        default=[],
        max_length=5,
        title=N_("Sample prompts"),
        description=N_(
            "Up to five questions that are answered at each evaluation, beside what the base model"
            " said to them."
        ),
    )
    sample_tokens: int = Field(
        default=64,
        ge=1,
        le=1024,
        title=N_("Tokens in a sample"),
        description=N_("The longest answer to a sample prompt."),
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        title=N_("Evaluate every"),
        description=N_("Steps between two evaluations on the validation data; empty: each epoch."),
    )
    save_steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        title=N_("Checkpoint every"),
        description=N_("Steps between two checkpoints; empty: only by time."),
    )
    save_seconds: int = Field(
        default=60,
        ge=1,
        le=86_400,
        title=N_("Checkpoint after"),
        description=N_("Seconds of work that a crash may cost, at most."),
    )
    keep_checkpoints: int = Field(
        default=2,
        ge=1,
        le=100,
        title=N_("Checkpoints kept"),
        description=N_("Older ones are removed."),
    )

    @field_validator("sample_prompts", mode="before")
    @classmethod
    def lines(cls, typed: Any) -> Any:
        """A form sends one text, a prompt a line."""
        if isinstance(typed, str):
            return [line.strip() for line in typed.splitlines() if line.strip()]
        return typed


def complete(method: Method, given: dict[str, Any]) -> Hyperparameters:
    """`given` with every other field at its default for `method`.

    Raises pydantic.ValidationError, one error per bad field.
    """
    defaults = {"learning_rate": 1e-5} if method == "full" else {}
    return Hyperparameters.model_validate(defaults | given)


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
    """Segment directories, in order. Rows {id, messages, tools?}; `pretrain` also {id, text}."""
    mix: list[Part] = []
    """In place of `train`: several datasets, or one not taken just once. The first is the main."""
    validation: list[str] = []
    split: Split | None = None
    """In place of `validation`: hold back rows of the (main) dataset."""
    drop_leaks: bool = False
    """Leave out validation rows that also stand in the training data."""
    hyperparameters: Hyperparameters = Hyperparameters()
    resume_from: str | None = None
    """A complete checkpoint of an earlier attempt at the same job."""
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
        elif bool(self.train) == bool(self.mix) or not self.method:
            raise ValueError("training needs data, given in one way, and a method")
        elif self.strategy == "fsdp" and self.method != "full":
            raise ValueError("only full tuning shares a model out over devices")
        elif self.split and self.validation:
            raise ValueError("validation data is either given or held back")
        return self
