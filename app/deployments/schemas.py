"""What `/api/v1/deployments` and the form take, and what they answer."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.deployments.fitting import Fit
from app.deployments.plans import Plan
from app.deployments.tables import Deployment, DeploymentRevision, Replica

NAME = r"^[a-z0-9][a-z0-9._-]*$"
LONGEST_IDLE = 7 * 24 * 60  # minutes


GIB, MIB = 2**30, 2**20


def from_form(values: Any) -> Any:
    """A form says `memory_gib`, and `arguments.x` for each of the engine's arguments; no field of
    a form is left out, so what is not there was emptied.
    """
    if not isinstance(values, Mapping):
        return values
    found = dict(values)
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


class DeploymentChange(Wishes):
    """What is left out stays. Anything but `replicas` makes a new revision, to which the
    deployment goes over without a gap where the devices allow it.
    """

    replicas: int | None = Field(None, ge=1, le=8)

    def changes(self) -> dict[str, Any]:
        """What was said, without the number of replicas."""
        return self.model_dump(exclude_unset=True, exclude={"replicas", "revision"})


class Fix(DeploymentChange):
    """What would help against an error of `revision`, by default of the present one."""

    revision: int | None = Field(None, ge=1, le=2**31 - 1)


class Asked(Wishes):
    """A deployment that is thought about."""

    model: str = Field(min_length=1, max_length=200)
    mode: Literal["adapter", "merged"] | None = None


class FixOut(BaseModel):
    """A change of the settings that would make it fit; `need` is in bytes of each device then."""

    changes: dict[str, Any]
    need: int


class PlanOut(BaseModel):
    """`fits` is now, later, never or unknown; `message` says why. `estimate` is in bytes per
    replica, `need` and `free` in bytes of each device.
    """

    engine: str
    mode: str
    max_model_len: int
    estimate: dict[str, int]
    quantizations: list[str]
    fits: str
    message: str
    need: int
    free: int
    fixes: list[FixOut]

    @classmethod
    def of(cls, plan: Plan, fit: Fit, say: Callable[..., str]) -> Self:
        return cls(
            engine=plan.engine,
            mode=plan.mode,
            max_model_len=plan.max_model_len,
            estimate=plan.settings.estimate,
            quantizations=plan.quantizations,
            fits=fit.when,
            message=say(fit.words, **fit.params),
            need=fit.need,
            free=fit.free,
            fixes=[FixOut(changes=fix.changes, need=fix.need) for fix in fit.fixes],
        )


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


class RevisionOut(BaseModel):
    """`ready_at`: when it first answered. `error`: why the deployment went back from it.
    `restores`: the revision whose settings these are again.
    """

    number: int
    current: bool
    settings: dict[str, Any]
    user_id: str
    restores: int | None
    created_at: datetime
    ready_at: datetime | None
    error: dict[str, str] | None

    @classmethod
    def of(cls, one: DeploymentRevision, deployment: Deployment, say: Callable[..., str]) -> Self:
        return cls(
            number=one.number,
            current=one.number == deployment.revision,
            settings=one.settings,
            user_id=one.user_id,
            restores=one.restores,
            created_at=one.created_at,
            ready_at=one.ready_at,
            error=spoken(one.error, say),
        )


class Revisions(BaseModel):
    """The settings that a deployment had, the newest first."""

    data: list[RevisionOut]
    has_more: bool = False


class ReplicaOut(BaseModel):
    """`memory` is in bytes, measured once the replica was ready."""

    id: str
    revision: int
    state: str
    reason: str
    phase: str
    progress: int | None
    engine: str
    node: str | None
    failures: int
    memory: int | None
    started_at: datetime | None
    ready_at: datetime | None
    retry_at: datetime | None
    error: dict[str, str] | None


class DeploymentOut(BaseModel):
    """`reason` says why a pending one waits: merging, quota, devices, memory or node.
    `host` is the deployment whose engines carry this one, an adapter; `adapters` is how many this
    one's engines can carry. `estimate` is in bytes per replica, `memory` of each device. `previous`
    is the revision that still serves while `revision` takes its place. `url` is the OpenAI base
    URL; `name` the model there.
    """

    id: str
    name: str
    url: str
    model: str
    served_model: str | None
    mode: str
    host: str | None
    adapters: int
    engine: str
    devices: int
    max_model_len: int
    memory: int | None
    exclusive: bool
    quantization: str
    arguments: dict[str, Any]
    estimate: dict[str, int]
    revision: int
    previous: int | None
    schedule: dict[str, Any] | None
    schedule_next: datetime | None
    desired: str
    state: str
    reason: str
    error: dict[str, str] | None
    replicas: list[ReplicaOut]
    idle_minutes: int | None
    last_used_at: datetime | None
    created_at: datetime
    ready_at: datetime | None

    @classmethod
    def of(
        cls,
        deployment: Deployment,
        replicas: list[Replica],
        url: str,
        say: Callable[..., str],
    ) -> Self:
        """`say(msgid, **params)` is a sentence in the reader's language."""
        return cls(
            id=deployment.id,
            name=deployment.name,
            url=url,
            model=deployment.model_id,
            served_model=deployment.served_model_id,
            mode=deployment.mode,
            host=deployment.host_id,
            adapters=deployment.adapters,
            engine=deployment.engine,
            devices=deployment.devices,
            max_model_len=deployment.max_model_len,
            memory=deployment.memory,
            exclusive=deployment.exclusive,
            quantization=deployment.quantization,
            arguments=deployment.arguments,
            estimate=deployment.estimate,
            revision=deployment.revision,
            previous=deployment.previous,
            schedule=deployment.schedule,
            schedule_next=deployment.schedule_next,
            desired=deployment.desired,
            state=deployment.state,
            reason=deployment.reason,
            error=spoken(trouble(deployment, replicas), say),
            replicas=[replica_out(replica, say) for replica in replicas],
            idle_minutes=deployment.idle_minutes,
            last_used_at=deployment.last_used_at,
            created_at=deployment.created_at,
            ready_at=deployment.ready_at,
        )


class Deployments(BaseModel):
    """Deployments, the newest first."""

    data: list[DeploymentOut]
    has_more: bool


class Events(BaseModel):
    """What happened to a deployment, the newest first."""

    data: list[dict[str, Any]]
    has_more: bool


def replica_out(replica: Replica, say: Callable[..., str]) -> ReplicaOut:
    return ReplicaOut(
        id=replica.id,
        revision=replica.revision,
        state=replica.state,
        reason=replica.reason,
        phase=replica.phase,
        progress=replica.progress,
        engine=replica.engine,
        node=replica.node_id,
        failures=replica.failures,
        memory=replica.memory,
        started_at=replica.started_at,
        ready_at=replica.ready_at,
        retry_at=replica.retry_at,
        error=spoken(replica.error, say),
    )


def trouble(deployment: Deployment, replicas: list[Replica]) -> dict[str, Any] | None:
    """The deployment's own error, or that of its first replica that has one."""
    return deployment.error or next((one.error for one in replicas if one.error), None)


def spoken(error: dict[str, Any] | None, say: Callable[..., str]) -> dict[str, str] | None:
    """An error with its sentences in the reader's language: {code, message, advice}."""
    if not error:
        return None
    params = error.get("params") or {}
    return {
        "code": error.get("code", ""),
        "message": say(error.get("message", ""), **params),
        "advice": say(error.get("advice", ""), **params),
    }


class Filters(BaseModel):
    """What the page of deployments is narrowed to."""

    q: str = Field("", max_length=200)
    state: str = Field("", max_length=20)
    offset: int = Field(0, ge=0, le=1_000_000)
