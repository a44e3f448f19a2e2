"""Batches, and the request log"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
OPEN = "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
STATUSES = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def when(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def large(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, JSON, nullable=nullable)


def to(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    op.create_table(
        "batches",
        text("id"),
        text("workspace_id"),
        text("user_id"),
        text("api_key_id", nullable=True),
        text("input_file_id"),
        text("endpoint"),
        text("model", nullable=True),
        text("status"),
        json("errors"),
        json("waits", nullable=True),
        json("meta", nullable=True),
        number("keep_seconds", nullable=True),
        number("total"),
        number("completed"),
        number("failed"),
        large("prompt_tokens"),
        large("cached_tokens"),
        large("completion_tokens"),
        large("reasoning_tokens"),
        text("output_file_id", nullable=True),
        text("error_file_id", nullable=True),
        when("created_at"),
        when("expires_at"),
        *(when(f"{status}_at", nullable=True) for status in STATUSES),
        text("runner"),
        when("beat_at", nullable=True),
        number("fence"),
        to("batches", "workspace_id", "workspaces"),
        to("batches", "user_id", "users"),
        to("batches", "api_key_id", "api_keys"),
        to("batches", "input_file_id", "files"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(
        op.f("ix_batches_workspace_id_created_at"), "batches", ["workspace_id", "created_at"]
    )
    op.create_index("ix_batches_open", "batches", ["created_at"], postgresql_where=sa.text(OPEN))
    op.create_table(
        "batch_answers",
        text("batch_id"),
        number("line"),
        flag("ok"),
        text("answer"),
        to("batch_answers", "batch_id", "batches"),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_answers")),
    )
    op.create_table(
        "request_log_choices",
        text("api_key_id"),
        text("log"),
        number("days"),
        flag("redact"),
        when("updated_at"),
        to("request_log_choices", "api_key_id", "api_keys"),
        sa.PrimaryKeyConstraint("api_key_id", name=op.f("pk_request_log_choices")),
    )
    op.create_table(
        "request_logs",
        text("id"),
        text("workspace_id"),
        text("user_id"),
        text("api_key_id"),
        when("at"),
        when("expires_at"),
        text("endpoint"),
        text("model"),
        text("deployment_id"),
        number("status"),
        flag("completed"),
        flag("streamed"),
        number("prompt_tokens"),
        number("completion_tokens"),
        number("first_token_ms", nullable=True),
        number("duration_ms"),
        flag("full"),
        flag("redacted"),
        flag("truncated"),
        json("asked"),
        json("answer"),
        text("question"),
        text("reply"),
        text("words"),
        to("request_logs", "workspace_id", "workspaces"),
        to("request_logs", "api_key_id", "api_keys"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_logs")),
    )
    for columns in (["workspace_id", "at"], ["api_key_id", "at"], ["expires_at"]):
        name = f"ix_request_logs_{'_'.join(columns)}"
        op.create_index(op.f(name), "request_logs", columns)


def downgrade() -> None:
    for table in ("request_logs", "request_log_choices", "batch_answers", "batches"):
        op.drop_table(table)
