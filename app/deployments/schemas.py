"""What `/api/v1/deployments` and the form take."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.cluster import labels
from app.jobs.priorities import Priority

NAME = r"^[a-z0-9][a-z0-9._-]*$"
LONGEST_IDLE = 7 * 24 * 60  # minutes


GIB, MIB = 2**30, 2**20


def from_form(values: Any) -> Any:
    """A form says `memory_gib`, and `arguments.x` for each of the engine's arguments; no field of
    a form is left out, so what is not there was emptied.
    """
    if not isinstance(values, Mapping):
        return values
    found = labels.from_form(values)
    inner = {name: found.pop(name) for name in list(found) if name.startswith("arguments.")}
    if inner:
        found["arguments"] = {name.partition(".")[2]: value for name, value in inner.items()}
    if "memory_gib" in found:
        found["memory"] = bytes_of(found.pop("memory_gib"))
    return found


def bytes_of(text: Any) -> Any:
    """Whole MiB in bytes of a number of GiB that was typed; what is none is left for the check."""
    try:
        size = float(text)
    except (TypeError, ValueError):
        return text
    return round(size * GIB / MIB) * MIB if 0 < size < 2**20 else text


class Wishes(BaseModel):
    """With what the engines of a deployment are started; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    devices: int = Field(1, ge=1, le=16, description="Per replica: more than one is split over.")
    max_model_len: int | None = Field(
        None, ge=64, le=2**20, description="Tokens of prompt and answer together."
    )
    memory: int | None = Field(
        None,
        ge=256 * MIB,
        le=2**50,
        description="A share of each device, in bytes. Left out: what the model is estimated to need.",
    )
    exclusive: bool = Field(False, description="Whole devices, shared with nobody.")
    quantization: str = Field(
        "", max_length=60, description="As vLLM calls it, such as fp8_per_tensor. Empty: none."
    )
    arguments: dict[str, bool | int | float | str | None] = Field(
        default_factory=dict,
        max_length=32,
        description="The engine's arguments, from an allowlist.",
    )

    @model_validator(mode="before")
    @classmethod
    def read_form(cls, values: Any) -> Any:
        return from_form(values)


class DeploymentCreate(Wishes):
    """`model` is an id or a name. `mode` is for adapters: on the base, or merged into it."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=NAME,
        description="The model name at /v1: lower-case letters, digits, dot, hyphen, underscore.",
    )
    model: str = Field(min_length=1, max_length=200)
    mode: Literal["adapter", "merged"] | None = Field(
        None, description="Adapters only. Left out: adapter, or merged where the engine needs it."
    )
    replicas: int = Field(1, ge=1, le=8)
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=32,
        description="Of nodes: replicas run only where a node has all of them.",
    )
    adapters: int | None = Field(
        None, ge=0, le=64, description="How many adapters of its base its engines can load."
    )
    own_engine: bool = Field(
        False, description="Adapters only: even where an engine of the base could carry it."
    )
    idle_minutes: int | None = Field(
        None,
        ge=1,
        le=LONGEST_IDLE,
        description="After so long without a request it sleeps; the next one wakes it.",
    )
    priority: Priority = Field("normal", description="Who comes first when devices are short.")


class DeploymentChange(Wishes):
    """What is left out stays. Anything but `replicas` and `priority` makes a new revision, to which
    the deployment goes over without a gap where the devices allow it.
    """

    replicas: int | None = Field(None, ge=1, le=8)
    priority: Priority | None = None

    def changes(self) -> dict[str, Any]:
        """What was said of the engines' settings."""
        return self.model_dump(exclude_unset=True, exclude={"replicas", "priority", "revision"})


class Fix(DeploymentChange):
    """What would help against an error of `revision`, by default of the present one."""

    revision: int | None = Field(None, ge=1, le=2**31 - 1)


class Asked(Wishes):
    """A deployment that is thought about."""

    model: str = Field(min_length=1, max_length=200)
    mode: Literal["adapter", "merged"] | None = None


class Scale(BaseModel):
    """How many replicas there shall be."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(ge=1, le=8)


class Rollback(BaseModel):
    """The revision to go back to."""

    model_config = ConfigDict(extra="forbid")

    revision: int = Field(ge=1, le=2**31 - 1)


class Window(BaseModel):
    """Times in cron's notation: minute, hour, day, month, weekday."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    up: str = Field("", max_length=100)
    down: str = Field("", max_length=100)


class Schedule(BaseModel):
    """When it starts and stops by itself. Between these times it may be started and stopped."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    timezone: str = Field("UTC", max_length=60)
    windows: list[Window] = Field(max_length=8)

    @model_validator(mode="before")
    @classmethod
    def read_form(cls, values: Any) -> Any:
        """A form says `windows.0.up`; rows that stand empty are left out."""
        if not isinstance(values, Mapping) or "windows" in values:
            return values
        found = {name: value for name, value in values.items() if not name.startswith("windows.")}
        rows: dict[str, dict[str, Any]] = {}
        for name in sorted(set(values) - set(found)):
            _, row, way = [*name.split("."), "", ""][:3]
            rows.setdefault(row, {})[way] = values[name]
        return found | {"windows": list(rows.values())}


class Filters(BaseModel):
    """What the page of deployments is narrowed to."""

    q: str = Field("", max_length=200)
    state: str = Field("", max_length=20)
    offset: int = Field(0, ge=0, le=1_000_000)
