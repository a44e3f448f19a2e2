"""Deployments: what should be running; replicas: the engines that do."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Deployment(Base):
    __tablename__ = "deployments"
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
    # bytes that each replica is expected to need: {weights, cache, overhead}
    estimate: Mapped[dict[str, Any]] = mapped_column(default=dict)
    desired: Mapped[str] = mapped_column(default="running")  # running or stopped
    state: Mapped[str] = mapped_column(default="pending")  # see states.py
    reason: Mapped[str] = mapped_column(default="")
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created]
    ready_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Replica(Base):
    """One running engine. Its row is what the node must make true."""

    __tablename__ = "replicas"
    __table_args__ = (UniqueConstraint("deployment_id", "index"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("rep"))
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"))
    index: Mapped[int]
    state: Mapped[str] = mapped_column(default="pending")
    reason: Mapped[str] = mapped_column(default="")
    fence: Mapped[int] = mapped_column(default=0)
    node_id: Mapped[str | None] = mapped_column(ForeignKey("nodes.id"))
    pid: Mapped[int | None]
    pid_started: Mapped[float | None]
    address: Mapped[str] = mapped_column(default="")  # http://127.0.0.1:41234
    secret: Mapped[str] = mapped_column(default="")  # the engine's own key, made per start
    engine: Mapped[str] = mapped_column(default="")  # vllm or transformers: what runs
    phase: Mapped[str] = mapped_column(default="")  # fetch, load, compile, warm ...
    failures: Mapped[int] = mapped_column(default=0)  # starts lost in a row; sets the backoff
    strikes: Mapped[int] = mapped_column(default=0)  # health checks lost in a row
    retry_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes, measured once it is ready
    error: Mapped[dict[str, Any] | None]  # {code, message, params, advice, permanent}


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
