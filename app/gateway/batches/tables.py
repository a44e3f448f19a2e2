"""Many requests in one file, answered when there is room for them."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Batch(Base):
    """One batch at `/v1/batches`. Whoever works on it holds it by `runner`, `beat_at` and `fence`."""

    __tablename__ = "batches"
    __audited__ = True
    __unaudited__ = (
        "errors",
        "waits",
        "total",
        "completed",
        "failed",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "output_file_id",
        "error_file_id",
        "in_progress_at",
        "finalizing_at",
        "completed_at",
        "failed_at",
        "expired_at",
        "cancelled_at",
        "runner",
        "fence",
        "expires_at",
    )
    __table_args__ = (
        Index("ix_batches_workspace_id_created_at", "workspace_id", "created_at"),
        Index(
            "ix_batches_open",
            "created_at",
            postgresql_where=text(
                "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
            ),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("batch"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))  # None: on a page
    input_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    endpoint: Mapped[str]  # /v1/chat/completions
    model: Mapped[str | None]  # of all its lines, once they were read
    status: Mapped[str] = mapped_column(default="validating")
    errors: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # of lines.problem
    waits: Mapped[dict[str, Any] | None]  # why nothing goes on just now: {message, params}
    meta: Mapped[dict[str, Any] | None]
    keep_seconds: Mapped[int | None]  # of the files that it leaves
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cached_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    output_file_id: Mapped[str | None]  # a file can be deleted before its batch
    error_file_id: Mapped[str | None]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    runner: Mapped[str] = mapped_column(default="")  # the process that works on it
    beat_at: Mapped[datetime | None]  # when that was last heard of; None: nobody works on it
    fence: Mapped[int] = mapped_column(default=0)  # one more with each who takes it up


class BatchAnswer(Base):
    """What came of one line, until it stands in a file. A line with a row is not asked again."""

    __tablename__ = "batch_answers"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    ok: Mapped[bool]  # for the output file; otherwise for that of errors
    answer: Mapped[str]  # a line of that file, JSON
