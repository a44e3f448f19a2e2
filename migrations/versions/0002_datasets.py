"""Datasets: kinds of rows, drafts with edits, uploads in pieces, measures"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    for name, kind, value in (
        ("checks", JSON, "{}"),
        ("edition", sa.Integer(), "0"),
        ("kind", sa.Text(), "sft"),
        ("recipe", JSON, "{}"),
        ("files", JSON, "[]"),
    ):
        op.add_column(
            "dataset_versions", sa.Column(name, kind, nullable=False, server_default=value)
        )
        op.alter_column("dataset_versions", name, server_default=None)
    op.add_column("jobs", sa.Column("mix", JSON, nullable=False, server_default="{}"))
    op.alter_column("jobs", "mix", server_default=None)
    op.add_column("dataset_versions", sa.Column("mapping", JSON, nullable=True))
    op.add_column("dataset_versions", sa.Column("parent_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_dataset_versions_parent_id"),
        "dataset_versions",
        "dataset_versions",
        ["parent_id"],
        ["id"],
    )
    op.add_column("dataset_issues", sa.Column("file", sa.Text(), nullable=False, server_default=""))
    op.alter_column("dataset_issues", "file", server_default=None)
    op.create_table(
        "draft_acts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("growth", sa.Integer(), nullable=False),
        sa.Column("params", JSON, nullable=False),
        sa.Column("segments", JSON, nullable=True),
        sa.Column("cursor", JSON, nullable=False),
        sa.Column("claimed_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_draft_acts_version_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_draft_acts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_draft_acts")),
        sa.UniqueConstraint("version_id", "number", name=op.f("uq_draft_acts_version_id_number")),
    )
    op.create_table(
        "row_edits",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("act_id", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.Text(), nullable=False),
        sa.Column("before", sa.LargeBinary(), nullable=True),
        sa.Column("after", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_row_edits_version_id")
        ),
        sa.ForeignKeyConstraint(["act_id"], ["draft_acts.id"], name=op.f("fk_row_edits_act_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_row_edits")),
    )
    op.create_index("ix_row_edits_version_id_row_id", "row_edits", ["version_id", "row_id"])
    op.create_index(op.f("ix_row_edits_act_id"), "row_edits", ["act_id"])
    op.create_table(
        "dataset_comparisons",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("old_id", sa.Text(), nullable=False),
        sa.Column("old_edition", sa.Integer(), nullable=False),
        sa.Column("new_id", sa.Text(), nullable=False),
        sa.Column("new_edition", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("artefact", sa.Text(), nullable=False),
        sa.Column("counts", JSON, nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("claimed_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_comparisons_dataset_id")
        ),
        sa.ForeignKeyConstraint(
            ["old_id"], ["dataset_versions.id"], name=op.f("fk_dataset_comparisons_old_id")
        ),
        sa.ForeignKeyConstraint(
            ["new_id"], ["dataset_versions.id"], name=op.f("fk_dataset_comparisons_new_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_comparisons")),
        sa.UniqueConstraint(
            "old_id",
            "old_edition",
            "new_id",
            "new_edition",
            name=op.f("uq_dataset_comparisons_old_id_old_edition_new_id_new_edition"),
        ),
    )
    op.create_index(
        op.f("ix_dataset_comparisons_dataset_id"), "dataset_comparisons", ["dataset_id"]
    )
    op.create_table(
        "dataset_uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("touched_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_dataset_uploads_workspace_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_dataset_uploads_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_uploads")),
    )
    op.create_table(
        "dataset_measures",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("pid_started", sa.Float(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("touched_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_dataset_measures_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_measures")),
        sa.UniqueConstraint("version_id", "key", name=op.f("uq_dataset_measures_version_id_key")),
    )


def downgrade() -> None:
    op.drop_table("dataset_measures")
    op.drop_table("dataset_uploads")
    op.drop_table("dataset_comparisons")
    op.drop_table("row_edits")
    op.drop_table("draft_acts")
    op.drop_column("jobs", "mix")
    op.drop_constraint(op.f("fk_dataset_versions_parent_id"), "dataset_versions")
    op.drop_column("dataset_issues", "file")
    for name in ("parent_id", "mapping", "files", "recipe", "kind", "edition", "checks"):
        op.drop_column("dataset_versions", name)
