"""What the JSON API answers about deployments."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel

from app.deployments.fitting import Fit
from app.deployments.plans import Plan
from app.deployments.tables import Deployment, DeploymentRevision, Replica
from app.jobs.priorities import PRIORITIES, Priority
from app.jobs.schemas import JobWaiting
from app.jobs.waiting import Wait


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
    """`reason` says why a pending one waits: merging, quota, devices, memory or node. `waiting` is
    where the first of its replicas that waits for devices stands, and when it may start.
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
    labels: dict[str, str]
    priority: Priority
    estimate: dict[str, int]
    revision: int
    previous: int | None
    schedule: dict[str, Any] | None
    schedule_next: datetime | None
    desired: str
    state: str
    reason: str
    waiting: JobWaiting | None
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
        wait: Wait | None = None,
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
            labels=deployment.labels,
            priority=PRIORITIES[deployment.priority],
            estimate=deployment.estimate,
            revision=deployment.revision,
            previous=deployment.previous,
            schedule=deployment.schedule,
            schedule_next=deployment.schedule_next,
            desired=deployment.desired,
            state=deployment.state,
            reason=deployment.reason,
            waiting=JobWaiting.model_validate(wait) if wait else None,
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
