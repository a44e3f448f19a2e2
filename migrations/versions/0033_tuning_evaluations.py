"""Jobs: an evaluation at their end; promotions of what was evaluated"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0033"
down_revision: str | None = "0032"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("evaluation", postgresql.JSONB(), nullable=True))
    op.add_column(
        "jobs", sa.Column("evaluated", sa.Boolean(), nullable=False, server_default="false")
    )
    op.alter_column("jobs", "evaluated", server_default=None)
    op.create_index(
        "ix_jobs_unevaluated",
        "jobs",
        ["id"],
        postgresql_where=sa.text("evaluation IS NOT NULL AND NOT evaluated"),
    )
    op.drop_index("ix_evaluations_job_id", "evaluations")
    op.create_unique_constraint("uq_evaluations_job_id", "evaluations", ["job_id"])
    op.create_table(
        "evaluation_promotions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("candidate_id", sa.Text(), nullable=False),
        sa.Column("rival_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("needs", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("verdict", postgresql.JSONB(), nullable=True),
        sa.Column("message", postgresql.JSONB(), nullable=True),
        sa.Column("deployment_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        *(
            sa.ForeignKeyConstraint(
                [column], [target], name=op.f(f"fk_evaluation_promotions_{column}")
            )
            for column, target in (
                ("workspace_id", "workspaces.id"),
                ("created_by", "users.id"),
                ("evaluation_id", "evaluations.id"),
                ("candidate_id", "evaluation_candidates.id"),
                ("rival_id", "evaluation_candidates.id"),
                ("deployment_id", "deployments.id"),
            )
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_promotions")),
    )
    op.create_index(
        "ix_evaluation_promotions_evaluation_id", "evaluation_promotions", ["evaluation_id"]
    )
    op.create_index(
        "ix_evaluation_promotions_open",
        "evaluation_promotions",
        ["created_at"],
        postgresql_where=sa.text("state IN ('waiting', 'starting')"),
    )


def downgrade() -> None:
    op.drop_table("evaluation_promotions")
    op.drop_constraint("uq_evaluations_job_id", "evaluations", type_="unique")
    op.create_index("ix_evaluations_job_id", "evaluations", ["job_id"])
    op.drop_index("ix_jobs_unevaluated", "jobs")
    op.drop_column("jobs", "evaluated")
    op.drop_column("jobs", "evaluation")
