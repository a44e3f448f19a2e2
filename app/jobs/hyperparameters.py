"""The choices of a tuning run. The console and its API are made of these fields: titles and
descriptions are msgids, which the form shows in the reader's language.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from app.errors import N_

Bits = Annotated[Literal[4, 8], BeforeValidator(lambda typed: {"4": 4, "8": 8}.get(typed, typed))]


class Hyperparameters(BaseModel):
    """The choices of one tuning run. The defaults suit a LoRA fine-tune; see
    `app.jobs.methods.complete`.

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
    optimizer: Literal["adamw", "adafactor", "sgd"] = Field(
        default="adamw",
        title=N_("Optimizer"),
        description=N_("AdamW suits nearly always; Adafactor and SGD need less memory."),
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
    lora_target: str = Field(
        default="all-linear",
        pattern=r"^(all-linear|[A-Za-z0-9_.]+( *, *[A-Za-z0-9_.]+)*)$",
        max_length=1000,
        title=N_("LoRA layers"),
        description=N_("all-linear, or names of layers with commas between: q_proj, v_proj."),
    )
    use_rslora: bool = Field(
        default=False,
        title=N_("rsLoRA"),
        description=N_("Scale by alpha / √rank, so that high ranks learn as fast as low ones."),
    )
    use_dora: bool = Field(
        default=False,
        title=N_("DoRA"),
        description=N_(
            "Learn size and direction of the weights apart: a little better at low ranks, and"
            " slower. vLLM serves the result merged."
        ),
    )
    lora_init: Literal["default", "pissa"] = Field(
        default="default",
        title=N_("LoRA start"),
        description=N_(
            "default begins with no change; pissa begins with the strongest directions of the"
            " weights, learns faster, and is saved as a plain adapter of twice the rank."
        ),
    )
    loraplus_ratio: float | None = Field(
        default=None,
        ge=1,
        le=100,
        title=N_("LoRA+ ratio"),
        description=N_(
            "How much higher the learning rate of the B matrices is; 16 is usual, empty: the same."
        ),
    )
    chain: Literal["continue", "stack"] = Field(
        default="continue",
        title=N_("From an adapter"),
        description=N_(
            "continue trains the adapter itself further; stack keeps it as it is and trains a new"
            " one on top. The result is one adapter of the same base either way."
        ),
    )
    quantization_bits: Bits = Field(
        default=4,
        title=N_("Bits of the base model"),
        description=N_("4 (NF4) needs a quarter of the memory of 16, 8 needs half of it."),
    )
    freeze_layers: int = Field(
        default=2,
        ge=1,
        le=1000,
        title=N_("Layers trained"),
        description=N_("The last layers of the model, so many of them; all others stay."),
    )
    neftune_alpha: float | None = Field(
        default=None,
        gt=0,
        le=100,
        title=N_("NEFTune alpha"),
        description=N_(
            "Noise on the embeddings while training, which can make answers better; 5 is usual,"
            " empty: none."
        ),
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        le=100,
        title=N_("Beta"),
        description=N_("How strongly the model is kept near its start; of ORPO, the odds' weight."),
    )
    dpo_loss: Literal["sigmoid", "hinge", "ipo", "simpo"] = Field(
        default="sigmoid",
        title=N_("DPO loss"),
        description=N_("sigmoid is DPO as published; simpo needs no reference model."),
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        title=N_("Label smoothing"),
        description=N_("The share of pairs that may be the wrong way round (robust DPO)."),
    )
    desirable_weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        title=N_("Weight of good answers"),
        description=N_("Raise it where good answers are fewer than bad ones."),
    )
    undesirable_weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        title=N_("Weight of bad answers"),
        description=N_("Raise it where bad answers are fewer than good ones."),
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
