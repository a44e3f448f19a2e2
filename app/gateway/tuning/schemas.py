"""What `/v1/fine_tuning/jobs` takes, in OpenAI's words."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
Epochs = Auto | Annotated[int, Field(ge=1, le=50)]
BatchSize = Auto | Annotated[int, Field(ge=1, le=256)]
Multiplier = Auto | Annotated[float, Field(gt=0, le=1000)]
Beta = Auto | Annotated[float, Field(gt=0, le=2)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SupervisedHyperparameters(Strict):
    n_epochs: Epochs = "auto"
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = "auto"


class DpoHyperparameters(SupervisedHyperparameters):
    beta: Beta = "auto"


class Supervised(Strict):
    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()


class Dpo(Strict):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(Strict):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class Wandb(Strict):
    project: str = Field(min_length=1, max_length=128)
    name: str | None = Field(None, max_length=128)
    entity: str | None = Field(None, max_length=128)
    tags: list[Annotated[str, Field(max_length=64)]] = Field([], max_length=50)


class Integration(Strict):
    type: Literal["wandb"]
    wandb: Wandb


Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class FineTuningCreate(Strict):
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
