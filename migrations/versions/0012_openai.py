"""Files and tuning jobs of OpenAI's and DashScope's clients"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def when(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def to(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    op.create_table(
        "files",
        text("id"),
        text("workspace_id"),
        text("user_id", nullable=True),
        text("file_name"),
        text("purpose"),
        text("description"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        text("md5"),
        text("artefact"),
        text("version_id", nullable=True),
        sa.Column("error", JSON, nullable=True),
        when("created_at"),
        when("expires_at", nullable=True),
        when("deleted_at", nullable=True),
        to("files", "workspace_id", "workspaces"),
        to("files", "user_id", "users"),
        to("files", "version_id", "dataset_versions"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index(
        op.f("ix_files_workspace_id_created_at"), "files", ["workspace_id", "created_at"]
    )
    op.create_table(
        "file_uploads",
        text("id"),
        text("workspace_id"),
        text("user_id"),
        text("file_name"),
        text("purpose"),
        text("mime_type"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("keep_seconds", sa.Integer(), nullable=True),
        text("status"),
        text("file_id", nullable=True),
        when("created_at"),
        when("expires_at"),
        to("file_uploads", "workspace_id", "workspaces"),
        to("file_uploads", "user_id", "users"),
        to("file_uploads", "file_id", "files"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_uploads")),
    )
    op.create_index(
        op.f("ix_file_uploads_workspace_id_status"), "file_uploads", ["workspace_id", "status"]
    )
    op.create_table(
        "file_parts",
        text("id"),
        text("upload_id"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        when("created_at"),
        to("file_parts", "upload_id", "file_uploads"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_parts")),
    )
    op.create_index(op.f("ix_file_parts_upload_id"), "file_parts", ["upload_id"])
    op.create_table(
        "tuning_jobs",
        text("id"),
        text("workspace_id"),
        text("user_id"),
        text("api"),
        text("state"),
        text("model"),
        text("model_id"),
        text("stage"),
        text("method"),
        sa.Column("training_files", JSON, nullable=False),
        sa.Column("validation_files", JSON, nullable=False),
        sa.Column("asked", JSON, nullable=False),
        sa.Column("resolved", JSON, nullable=False),
        sa.Column("settings", JSON, nullable=False),
        text("name"),
        text("suffix"),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("integrations", JSON, nullable=False),
        sa.Column("meta", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        text("job_id", nullable=True),
        text("result_file_id", nullable=True),
        when("created_at"),
        when("finished_at", nullable=True),
        when("deleted_at", nullable=True),
        when("claimed_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        to("tuning_jobs", "workspace_id", "workspaces"),
        to("tuning_jobs", "user_id", "users"),
        to("tuning_jobs", "model_id", "models"),
        to("tuning_jobs", "job_id", "jobs"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tuning_jobs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_tuning_jobs_job_id")),
    )
    op.create_index(op.f("ix_tuning_jobs_state"), "tuning_jobs", ["state"])
    op.create_index(
        op.f("ix_tuning_jobs_workspace_id_created_at"),
        "tuning_jobs",
        ["workspace_id", "created_at"],
    )
    op.add_column("jobs", sa.Column("report_as", JSON, nullable=False, server_default="{}"))
    op.alter_column("jobs", "report_as", server_default=None)


def downgrade() -> None:
    op.drop_column("jobs", "report_as")
    for table in ("tuning_jobs", "file_parts", "file_uploads", "files"):
        op.drop_table(table)
