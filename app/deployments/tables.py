"""Deployments: what should be running; replicas: the engines that do."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Deployment(Base):
    __tablename__ = "deployments"
    __audited__ = True
    __unaudited__ = (
        "estimate",
        "previous",
        "schedule_next",
        "asked_at",
        "idled_at",
        "served_model_id",
        "merge_job_id",
        "sends",
    )
    __table_args__ = (
        Index("ix_deployments_workspace_id_created_at", "workspace_id", "created_at"),
        Index(
            "uq_deployments_workspace_id_name",
            "workspace_id",
            "name",
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("dep"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]  # the model name at /v1
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))  # what the user chose
    mode: Mapped[str]  # base (a whole model as it is), adapter (on its base) or merged
    merge_job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    # What the engine loads: the model itself, or the merged one made of it; None until merged.
    served_model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    engine: Mapped[str]  # auto, vllm or transformers: what was asked for
    replicas: Mapped[int] = mapped_column(default=1)
    devices: Mapped[int] = mapped_column(default=1)  # per replica
    max_model_len: Mapped[int] = mapped_column(default=2048)  # tokens: prompt and answer
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes of each device; None: estimated
    exclusive: Mapped[bool] = mapped_column(default=False)  # whole devices
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)  # that its nodes must have
    priority: Mapped[int] = mapped_column(default=1)  # 0..3: low, normal, high, urgent
    quantization: Mapped[str] = mapped_column(default="")  # as vLLM calls it; "" is none
    arguments: Mapped[dict[str, Any]] = mapped_column(default=dict)  # see options.py
    # bytes that each replica is expected to need: {weights, cache, overhead}
    estimate: Mapped[dict[str, Any]] = mapped_column(default=dict)
    revision: Mapped[int] = mapped_column(default=1)  # what shall run: the settings above
    previous: Mapped[int | None]  # while it is being replaced: what it goes back to
    desired: Mapped[str] = mapped_column(default="running")  # running, idle or stopped
    state: Mapped[str] = mapped_column(default="pending")  # see states.py
    reason: Mapped[str] = mapped_column(default="")
    error: Mapped[dict[str, Any] | None]
    schedule: Mapped[dict[str, Any] | None]  # {timezone, windows: [{up, down}]}, see schedules.py
    schedule_next: Mapped[datetime | None]  # when it next goes up or down
    # An adapter that the engines of another deployment carry: it has none of its own.
    host_id: Mapped[str | None] = mapped_column(ForeignKey("deployments.id"), index=True)
    # What the gateway adds to its requests, where the host's engine would do otherwise.
    sends: Mapped[dict[str, Any]] = mapped_column(default=dict)
    adapters: Mapped[int] = mapped_column(default=0)  # how many others its engines may carry
    adapter_rank: Mapped[int] = mapped_column(default=0)  # the largest they have room for
    asked_at: Mapped[datetime | None]  # a guest that was not loaded was asked for
    created_at: Mapped[Created]
    ready_at: Mapped[datetime | None]
    idle_minutes: Mapped[int | None]  # after so many without a request it sleeps; None: never
    last_used_at: Mapped[datetime | None]  # a request asked for it, give or take ten seconds
    idled_at: Mapped[datetime | None]  # since when it sleeps; until it is ready again
    deleted_at: Mapped[datetime | None]


class DeploymentRevision(Base):
    """Settings that a deployment had, has, or was to have and went back from."""

    __tablename__ = "deployment_revisions"

    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]  # see revisions.Settings
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    restores: Mapped[int | None]  # the revision whose settings these are again
    created_at: Mapped[Created]
    ready_at: Mapped[datetime | None]  # when it first answered
    error: Mapped[dict[str, Any] | None]  # why the deployment went back from it


class Replica(Base):
    """One running engine. Its row is what the node must make true."""

    __tablename__ = "replicas"
    __table_args__ = (
        Index(
            "uq_replicas_place",
            *("deployment_id", "revision", "index"),
            unique=True,
            postgresql_where=text("NOT moved"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("rep"))
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"))
    revision: Mapped[int] = mapped_column(default=1)  # whose settings it runs with
    index: Mapped[int]
    state: Mapped[str] = mapped_column(default="pending")
    reason: Mapped[str] = mapped_column(default="")
    fence: Mapped[int] = mapped_column(default=0)
    node_id: Mapped[str | None] = mapped_column(ForeignKey("nodes.id"))
    moved: Mapped[bool] = mapped_column(default=False)  # it makes way for another in its place
    pid: Mapped[int | None]
    pid_started: Mapped[float | None]
    address: Mapped[str] = mapped_column(default="")  # http://127.0.0.1:41234
    secret: Mapped[str] = mapped_column(default="")  # the engine's own key, made per start
    engine: Mapped[str] = mapped_column(default="")  # vllm or transformers: what runs
    phase: Mapped[str] = mapped_column(default="")  # fetch, load, compile, warm ...
    progress: Mapped[int | None]  # percent of the phase, where the engine tells
    phases: Mapped[dict[str, Any]] = mapped_column(default=dict)  # when each began, this start
    took: Mapped[dict[str, Any]] = mapped_column(default=dict)  # seconds of each, last good start
    drain_until: Mapped[datetime | None]  # stopping: how long it may finish what it answers
    failures: Mapped[int] = mapped_column(default=0)  # starts lost in a row; sets the backoff
    strikes: Mapped[int] = mapped_column(default=0)  # health checks lost in a row
    retry_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes, measured once it is ready
    error: Mapped[dict[str, Any] | None]  # {code, message, params, advice, permanent}


class AdapterLoad(Base):
    """What a node made of loading a guest into one start of a replica. No row: not loaded."""

    __tablename__ = "adapter_loads"

    replica_id: Mapped[str] = mapped_column(
        ForeignKey("replicas.id", ondelete="CASCADE"), primary_key=True
    )
    deployment_id: Mapped[str] = mapped_column(
        ForeignKey("deployments.id"), primary_key=True, index=True
    )
    fence: Mapped[int]  # of the start it went into; with another one it is gone
    state: Mapped[str]  # loaded or failed
    seconds: Mapped[float]  # that it took, with its first token
    error: Mapped[dict[str, Any] | None]  # {code, message, params, advice}
    at: Mapped[Created]


class DeploymentEvent(Base):
    __tablename__ = "deployment_events"
    __table_args__ = (Index("ix_deployment_events_deployment_id_id", "deployment_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"))
    replica_id: Mapped[str | None]
    at: Mapped[Created]
    kind: Mapped[str]
    message: Mapped[str]
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)


class ReplicaLog(Base):
    __tablename__ = "replica_logs"

    replica_id: Mapped[str] = mapped_column(ForeignKey("replicas.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Alias(Base):
    """A name at `/v1` that leads to deployments, by weight. Looked up before their own names."""

    __tablename__ = "aliases"
    __audited__ = True
    __table_args__ = (UniqueConstraint("workspace_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("als"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    targets: Mapped[list[dict[str, Any]]]  # {deployment (its id), weight}
    created_at: Mapped[Created]


class AliasEvent(Base):
    """What was done with an alias, and by whom; kept when the alias is gone."""

    __tablename__ = "alias_events"
    __table_args__ = (Index("ix_alias_events_workspace_id_id", "workspace_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    alias_id: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    at: Mapped[Created]
    message: Mapped[str]
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)


class ReplicaMetric(Base):
    """What an engine said of itself at one moment, and its devices. Thinned: see metrics.py.

    Tokens and gaps are counted from the engine's start. No key to the replica: a curve outlives it.
    """

    __tablename__ = "replica_metrics"
    __table_args__ = (
        Index("ix_replica_metrics_deployment_id_at", "deployment_id", "at"),
        Index("ix_replica_metrics_kept_at", "kept", "at"),
    )

    replica_id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"))
    fence: Mapped[int]
    kept: Mapped[bool]  # for a month, where the others go after a day
    running: Mapped[int | None]  # requests in work
    waiting: Mapped[int | None]  # requests in the engine's queue
    cache: Mapped[float | None]  # of the key-value cache in use, 0 to 1
    prompted: Mapped[int | None] = mapped_column(BigInteger)  # tokens of prompts
    generated: Mapped[int | None] = mapped_column(BigInteger)  # tokens of answers
    # times between two tokens: [[at most so many seconds, count so far]]; the last is infinite
    gaps: Mapped[list[Any]] = mapped_column(JSONB, default=list)
    devices: Mapped[dict[str, Any]] = mapped_column(default=dict)  # name → {use, memory}
