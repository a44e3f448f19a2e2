"""Jobs: what a user started, what happened to it, what it wrote."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, LargeBinary, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id
from app.sealing import Sealed


class Job(Base):
    __tablename__ = "jobs"
    __audited__ = True
    __unaudited__ = (
        "fence",
        "retries",
        "node_id",
        "pid",
        "pid_started",
        "step",
        "total",
        "estimate",
        "outcome",
        "tensorboard",
        "result_model_id",
        "evaluated",
    )
    __table_args__ = (
        Index(
            "ix_jobs_unevaluated",
            "id",
            postgresql_where=text("evaluation IS NOT NULL AND NOT evaluated"),
        ),
        Index("ix_jobs_workspace_id_created_at", "workspace_id", "created_at"),
        Index("ix_jobs_state", "state"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("job"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    stage: Mapped[str]  # sft, merge, export ...
    method: Mapped[str]  # lora, full; empty for a merge and an export
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))  # what it starts from
    start: Mapped[str | None]  # the checkpoint that must become a model first: see app.jobs.starts
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    validation_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    # {datasets: [{version, multiplier | share}], split, drop_leaks}: see app.jobs.data; empty: the
    # one dataset as it is
    mix: Mapped[dict[str, Any]] = mapped_column(default=dict)
    spec: Mapped[dict[str, Any]]  # app.jobs.spec: the hyperparameters, complete
    devices: Mapped[int] = mapped_column(default=1)
    device_model: Mapped[str | None]  # as the devices call themselves; None: any
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)  # that its node must have
    priority: Mapped[int] = mapped_column(default=1)  # 0..3: low, normal, high, urgent

    state: Mapped[str] = mapped_column(default="queued")  # see states.py
    reason: Mapped[str] = mapped_column(default="")  # why it waits, or what asked it to stop
    fence: Mapped[int] = mapped_column(default=0)  # of the attempt that may write; +1 per grant
    retries: Mapped[int] = mapped_column(default=0)  # attempts lost to a death not asked for
    node_id: Mapped[str | None] = mapped_column(ForeignKey("nodes.id"))
    pid: Mapped[int | None]
    pid_started: Mapped[float | None]  # with pid: who the process is
    phase: Mapped[str] = mapped_column(default="")  # prepare, train, save ...
    step: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)  # steps
    error: Mapped[dict[str, Any] | None]  # {code, message, params}
    finishing: Mapped[bool] = mapped_column(default=False)  # asked to stop now and keep the result
    report_to: Mapped[list[str]] = mapped_column(default=list)  # wandb, swanlab, mlflow
    deploy: Mapped[str] = mapped_column(default="")  # serve the result by this name, if any
    keep: Mapped[bool] = mapped_column(default=False)  # nothing of it is cleared away: retention.py
    # at its end: evaluating.JobEvaluation, complete
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    evaluated: Mapped[bool] = mapped_column(default=False)  # that was begun, or cannot be
    # how it is called there, where somebody said so: {wandb: {project, name, entity, tags}}
    report_as: Mapped[dict[str, Any]] = mapped_column(default=dict)
    estimate: Mapped[dict[str, Any] | None]  # app.jobs.forecast, as it was at submission
    outcome: Mapped[dict[str, Any] | None]  # what was then measured, in the same words
    tensorboard: Mapped[str | None]  # storage id of the files that the run wrote
    result_model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]  # of the first attempt
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    at: Mapped[Created]
    fence: Mapped[int]
    kind: Mapped[str]  # state, checkpoint, warning ...
    message: Mapped[str]  # msgid
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)


class JobCheckpoint(Base):
    """A checkpoint that stands in a run directory of a node, or did when it was published."""

    __tablename__ = "job_checkpoints"
    __audited__ = True
    __unaudited__ = (
        "fence",
        "node_id",
        "loss",
        "eval_loss",
        "size",
        "user_id",
    )
    __audited_in__ = "view"
    __table_args__ = (Index("ix_job_checkpoints_node_id_state", "node_id", "state"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]  # of the attempt that wrote it
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    loss: Mapped[float | None]  # of its step
    eval_loss: Mapped[float | None]  # the last one before it
    size: Mapped[int] = mapped_column(BigInteger)  # bytes of its model
    state: Mapped[str] = mapped_column(default="kept")  # publishing, published, failed
    name: Mapped[str] = mapped_column(default="")  # of the model that it becomes
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # who asked for that
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    error: Mapped[dict[str, Any] | None]  # {code, message, params}
    created_at: Mapped[Created]


class StoredCheckpoint(Base):
    """The newest checkpoint of a job that stands in the store, for whichever node goes on."""

    __tablename__ = "stored_checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int]
    fence: Mapped[int]  # of the attempt that wrote it
    created_at: Mapped[Created]


class JobFiles(Base):
    """What stands of a job in run directories of a node, as the node told last. See retention.py."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    checkpoints: Mapped[dict[str, Any]] = mapped_column(default=dict)  # step → bytes on the disk
    others: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes of all else
    told_at: Mapped[Created]
    # what the node was told to remove: {steps, others}; it says when that is gone
    going: Mapped[dict[str, Any] | None]


class JobLog(Base):
    """A chunk of an attempt's log, as the outbox shipped it."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # of its first byte
    data: Mapped[bytes] = mapped_column(LargeBinary)


class JobMetric(Base):
    """One row per step; a resumed attempt's rows replace those of an older fence."""

    __tablename__ = "job_metrics"
    __table_args__ = (Index("ix_job_metrics_job_id_seq", "job_id", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]
    data: Mapped[dict[str, Any]]  # loss, eval_loss, lr, grad_norm, tokens, epoch, t
    seq: Mapped[int] = mapped_column(BigInteger, Identity())  # grows with each write: a cursor


class JobLoad(Base):
    """What a job's devices did at a heartbeat. Bounded: see app.jobs.loads."""

    __tablename__ = "job_loads"
    __table_args__ = (Index("ix_job_loads_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    at: Mapped[Created]
    data: Mapped[dict[str, Any]]  # device → {use: percent, memory: bytes}


class JobWebhook(Base):
    """Who is told when the job is over. See app.jobs.webhook."""

    __tablename__ = "job_webhooks"
    __audited__ = True
    __unaudited__ = ("due_at",)
    __hidden__ = ("url",)
    __audited_in__ = "view"
    __table_args__ = (
        Index("ix_job_webhooks_due", "due_at", postgresql_where=text("state = 'waiting'")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    url: Mapped[str]
    state: Mapped[str] = mapped_column(default="waiting")  # waiting, delivered, given up
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[Created]  # of the next attempt; none before the job is over


class WebhookKey(Base):
    """What a workspace's webhooks are signed with; made by us, shown to its members."""

    __tablename__ = "webhook_keys"
    __audited__ = True
    __hidden__ = (
        "secret",
        "former",
    )

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    secret: Mapped[str] = mapped_column(Sealed)
    former: Mapped[str | None] = mapped_column(
        Sealed
    )  # signs as well for a day, while receivers change over
    created_at: Mapped[Created]  # of the secret
