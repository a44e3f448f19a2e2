"""Checkpoints of jobs, as the registry's door sees them"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "job_checkpoints",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("eval_loss", sa.Float(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_job_checkpoints_{column}")
            )
            for column, table in (
                ("job_id", "jobs"),
                ("node_id", "nodes"),
                ("user_id", "users"),
                ("model_id", "models"),
            )
        ),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_job_checkpoints")),
    )
    op.create_index(
        op.f("ix_job_checkpoints_node_id_state"), "job_checkpoints", ["node_id", "state"]
    )


def downgrade() -> None:
    op.drop_table("job_checkpoints")
