"""Tuning jobs as OpenAI's and DashScope's clients start them, in front of our own jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


def job_id() -> str:
    return new_id("ftjob").replace("_", "-")


class TuningJob(Base):
    """What was asked for. Its files become datasets first; then there is a job of ours, and all that
    is said of it from then on is said of that.
    """

    __tablename__ = "tuning_jobs"
    __audited__ = True
    __unaudited__ = (
        "resolved",
        "settings",
        "job_id",
        "result_file_id",
    )
    __table_args__ = (
        Index("ix_tuning_jobs_workspace_id_created_at", "workspace_id", "created_at"),
        Index("ix_tuning_jobs_state", "state"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=job_id)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    api: Mapped[str]  # openai or dashscope: where it was asked for
    state: Mapped[str] = mapped_column(default="validating")  # started, failed, cancelled
    model: Mapped[str]  # as it was named
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    stage: Mapped[str]
    method: Mapped[str]
    training_files: Mapped[list[str]]
    validation_files: Mapped[list[str]] = mapped_column(default=list)
    asked: Mapped[dict[str, Any]]  # hyperparameters in the client's own words
    resolved: Mapped[dict[str, Any]] = mapped_column(default=dict)  # what became of “auto”
    # what is known of our own job before its files are: {hyperparameters, split}
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    name: Mapped[str] = mapped_column(default="")  # of the tuned model, if one was given
    suffix: Mapped[str] = mapped_column(default="")
    seed: Mapped[int] = mapped_column(BigInteger)
    integrations: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    meta: Mapped[dict[str, Any] | None]  # OpenAI's metadata
    error: Mapped[dict[str, Any] | None]  # {code, message, params, param, problems?}
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    result_file_id: Mapped[str | None]  # a file can be deleted before its job
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]  # where it never came to a job
    deleted_at: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]  # since when somebody looks at the files
    attempts: Mapped[int] = mapped_column(default=0)
