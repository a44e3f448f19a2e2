"""What `/api/v1/aliases` and the form take, and what they answer."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.deployments.schemas import NAME
from app.deployments.tables import Alias, Deployment
from app.errors import N_

MOST_TARGETS = 8
WEIGHT = "weight."


class Target(BaseModel):
    """`deployment` is an id or a name. Its share is its weight, divided by all weights."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    deployment: str = Field(min_length=1, max_length=200)
    weight: int = Field(ge=0, le=1000)


class AliasPut(BaseModel):
    """An alias, and where it shall lead."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(
        min_length=1, max_length=63, pattern=NAME, description="The model name at /v1."
    )
    targets: list[Target] = Field(min_length=1, max_length=MOST_TARGETS)


class AliasForm(AliasPut):
    """The same from a page: `weight.ID` is the weight of a deployment, empty for those left out."""

    @model_validator(mode="before")
    @classmethod
    def gathered(cls, values: dict[str, Any]) -> dict[str, Any]:
        fields = {name: value for name, value in values.items() if not name.startswith(WEIGHT)}
        targets = [
            {"deployment": name.removeprefix(WEIGHT), "weight": value}
            for name, value in values.items()
            if name.startswith(WEIGHT)
        ]
        return fields | {"targets": targets}

    @field_validator("targets", mode="before")
    @classmethod
    def leads_somewhere(cls, value: Any) -> Any:
        if not value:
            raise ValueError(N_("Give at least one deployment a weight."))
        return value


class TargetOut(BaseModel):
    """`deployment` is the id, `name` what it is called, `share` between 0 and 1."""

    deployment: str
    name: str
    state: str
    weight: int
    share: float


class AliasOut(BaseModel):
    """A name at /v1 that leads to one or several deployments."""

    id: str
    name: str
    targets: list[TargetOut]
    created_at: datetime

    @classmethod
    def of(cls, alias: Alias, known: Mapping[str, Deployment]) -> Self:
        total = sum(target["weight"] for target in alias.targets) or 1
        return cls(
            id=alias.id,
            name=alias.name,
            targets=[
                TargetOut(
                    deployment=target["deployment"],
                    name=known[target["deployment"]].name,
                    state=known[target["deployment"]].state,
                    weight=target["weight"],
                    share=round(target["weight"] / total, 4),
                )
                for target in alias.targets
            ],
            created_at=alias.created_at,
        )


class Aliases(BaseModel):
    """Aliases by name."""

    data: list[AliasOut]
    has_more: bool = False


class AliasEvents(BaseModel):
    """How an alias was changed, the newest first: {at, user, targets}."""

    data: list[dict[str, Any]]
    has_more: bool = False
