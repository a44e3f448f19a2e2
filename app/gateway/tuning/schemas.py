"""What `/v1/fine_tuning/jobs` takes, in OpenAI's words."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Auto = Annotated[Literal["auto"], Tag("auto")]
# so that what is told of a number that is too large is told of a number
EITHER = Discriminator(lambda value: "auto" if value == "auto" else "number")
Epochs = Annotated[Auto | Annotated[int, Field(ge=1, le=50), Tag("number")], EITHER]
BatchSize = Annotated[Auto | Annotated[int, Field(ge=1, le=256), Tag("number")], EITHER]
Multiplier = Annotated[Auto | Annotated[float, Field(gt=0, le=1000), Tag("number")], EITHER]
Beta = Annotated[Auto | Annotated[float, Field(gt=0, le=2), Tag("number")], EITHER]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SupervisedHyperparameters(Strict):
    """Of supervised tuning; auto leaves a choice to us."""

    n_epochs: Epochs = "auto"
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = "auto"


class DpoHyperparameters(SupervisedHyperparameters):
    """Of preference tuning."""

    beta: Beta = "auto"


class Supervised(Strict):
    """Supervised tuning."""

    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()


class Dpo(Strict):
    """Preference tuning."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(Strict):
    """How to tune."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class Wandb(Strict):
    """A project at Weights & Biases."""

    project: str = Field(min_length=1, max_length=128)
    name: str | None = Field(None, max_length=128)
    entity: str | None = Field(None, max_length=128)
    tags: list[Annotated[str, Field(max_length=64)]] = Field([], max_length=50)


class Integration(Strict):
    """Where else to report."""

    type: Literal["wandb"]
    wandb: Wandb


Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class FineTuningCreate(Strict):
    """A tuning run on an uploaded file."""

    model: str = Field(min_length=1, max_length=300)
    training_file: str = Field(min_length=1, max_length=100)
    validation_file: str | None = Field(None, max_length=100)
    suffix: str | None = Field(None, max_length=64)
    seed: int | None = Field(None, ge=0, lt=2**32)
    method: Method | None = None
    hyperparameters: SupervisedHyperparameters | None = Field(
        None, description="Deprecated by OpenAI: of a supervised method."
    )
    integrations: list[Integration] | None = Field(None, max_length=1)
    metadata: dict[Key, Value] | None = Field(None, max_length=16)


class TunedCalls(Strict):
    """What a call of a tuned model does that nobody has deployed."""

    mode: Literal["off", "load", "start"]
