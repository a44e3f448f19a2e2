"""Imports of models, what a card shows, and deletes that can be undone"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
TIME = sa.DateTime(timezone=True)
# the beginning of an architecture's name, and the family it tells; the longer first
FAMILIES = {
    "Qwen3": "Qwen3", "Qwen2": "Qwen2.5", "Llama": "Llama", "Glm": "GLM", "ChatGLM": "GLM",
    "Deepseek": "DeepSeek", "Gemma": "Gemma", "Mistral": "Mistral", "Mixtral": "Mistral",
    "Phi": "Phi",
}  # fmt: skip


def upgrade() -> None:
    op.add_column("models", sa.Column("family", sa.Text(), nullable=False, server_default=""))
    op.add_column("models", sa.Column("templated", sa.Boolean(), nullable=True))
    op.add_column("models", sa.Column("purged_at", TIME, nullable=True))
    op.add_column("model_pins", sa.Column("label", sa.Text(), nullable=False, server_default=""))
    op.alter_column("models", "family", server_default=None)
    op.alter_column("model_pins", "label", server_default=None)
    for start, family in FAMILIES.items():
        op.execute(
            sa.text("UPDATE models SET family = :family WHERE architecture LIKE :start").bindparams(
                family=family, start=f"{start}%"
            )
        )
    op.execute("UPDATE models SET family = 'Danlu' WHERE artefact LIKE 'models/danlu-starter-%'")
    op.execute(
        "UPDATE models SET family = base.family FROM models base"
        " WHERE models.base_id = base.id AND base.family = 'Danlu'"
    )
    for kind, table in (("job", "jobs"), ("deployment", "deployments")):
        op.execute(
            f"UPDATE model_pins SET label = o.name FROM {table} o"  # noqa: S608 - two words of ours
            f" WHERE owner_kind = '{kind}' AND owner_id = o.id"
        )
    op.rename_table("dataset_uploads", "uploads")
    for kind, column in (("pk", ""), ("fk", "_workspace_id"), ("fk", "_user_id")):
        op.execute(
            f"ALTER TABLE uploads RENAME CONSTRAINT"
            f" {kind}_dataset_uploads{column} TO {kind}_uploads{column}"
        )
    op.create_table(
        "model_imports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", JSON, nullable=False),
        sa.Column("base_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cursor", JSON, nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("claimed_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("cleared", sa.Boolean(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_model_imports_{column}")
            )
            for column, table in (
                ("workspace_id", "workspaces"),
                ("base_id", "models"),
                ("model_id", "models"),
                ("created_by", "users"),
            )
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_imports")),
    )
    op.create_index(
        "ix_model_imports_workspace_id_created_at", "model_imports", ["workspace_id", "created_at"]
    )
    op.create_table(
        "model_import_events",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("old", sa.Text(), nullable=True),
        sa.Column("new", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["import_id"], ["model_imports.id"], name=op.f("fk_model_import_events_import_id")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_model_import_events_user_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_import_events")),
    )
    op.create_index(op.f("ix_model_import_events_import_id"), "model_import_events", ["import_id"])


def downgrade() -> None:
    op.drop_table("model_import_events")
    op.drop_table("model_imports")
    for kind, column in (("pk", ""), ("fk", "_workspace_id"), ("fk", "_user_id")):
        op.execute(
            f"ALTER TABLE uploads RENAME CONSTRAINT"
            f" {kind}_uploads{column} TO {kind}_dataset_uploads{column}"
        )
    op.rename_table("uploads", "dataset_uploads")
    op.drop_column("model_pins", "label")
    for column in ("purged_at", "templated", "family"):
        op.drop_column("models", column)
