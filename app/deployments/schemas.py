"""What `/api/v1/deployments` and the form take, and what they answer."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.deployments.tables import Deployment, Replica

NAME = r"^[a-z0-9][a-z0-9._-]*$"
LONGEST_IDLE = 7 * 24 * 60  # minutes


class DeploymentCreate(BaseModel):
    """`model` is an id or a name. `mode` is for adapters: on the base, or merged into it."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=NAME,
        description="The model name at /v1: lower-case letters, digits, dot, hyphen, underscore.",
    )
    model: str = Field(min_length=1, max_length=200)
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    mode: Literal["adapter", "merged"] | None = Field(
        None, description="Adapters only. Left out: adapter, or merged where the engine needs it."
    )
    replicas: int = Field(1, ge=1, le=8)
    devices: int = Field(1, ge=1, le=16, description="Per replica.")
    max_model_len: int | None = Field(
        None, ge=64, le=2**20, description="Tokens of prompt and answer together."
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


class ReplicaOut(BaseModel):
    """`memory` is in bytes, measured once the replica was ready."""

    id: str
    state: str
    reason: str
    phase: str
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
    one's engines can carry. `estimate` is in bytes per replica. `url` is the OpenAI base URL; `name` the model there.
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
    estimate: dict[str, int]
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
            estimate=deployment.estimate,
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
    data: list[DeploymentOut]
    has_more: bool


class Events(BaseModel):
    data: list[dict[str, Any]]
    has_more: bool


def replica_out(replica: Replica, say: Callable[..., str]) -> ReplicaOut:
    return ReplicaOut(
        id=replica.id,
        state=replica.state,
        reason=replica.reason,
        phase=replica.phase,
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
