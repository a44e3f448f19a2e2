"""Deployments that sleep, and names that lead to several of them"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("idle_minutes", sa.Integer(), nullable=True))
    for name in ("last_used_at", "idled_at"):
        op.add_column("deployments", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "aliases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("targets", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_aliases_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_aliases_workspace_id_name")),
    )
    op.create_table(
        "alias_events",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("alias_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_alias_events_{column}")
            )
            for column, table in (("workspace_id", "workspaces"), ("user_id", "users"))
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_events")),
    )
    op.create_index(op.f("ix_alias_events_workspace_id_id"), "alias_events", ["workspace_id", "id"])


def downgrade() -> None:
    op.drop_table("alias_events")
    op.drop_table("aliases")
    for name in ("idled_at", "last_used_at", "idle_minutes"):
        op.drop_column("deployments", name)
