"""People rate answers"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0035"
down_revision: str | None = "0034"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "rating_rounds",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("evaluation_id", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("numbers", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("results", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_rating_rounds_workspace_id")
        ),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=op.f("fk_rating_rounds_evaluation_id")
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("fk_rating_rounds_created_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rating_rounds")),
    )
    op.create_index(op.f("ix_rating_rounds_evaluation_id"), "rating_rounds", ["evaluation_id"])
    op.create_index(
        "ix_rating_rounds_workspace_id_created_at",
        "rating_rounds",
        ["workspace_id", "created_at"],
    )
    op.create_table(
        "ratings",
        sa.Column("round_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("candidate_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rating_rounds.id"], name=op.f("fk_ratings_round_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_ratings_user_id")),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["evaluation_candidates.id"],
            name=op.f("fk_ratings_candidate_id"),
        ),
        sa.PrimaryKeyConstraint(
            "round_id", "user_id", "candidate_id", "number", name=op.f("pk_ratings")
        ),
    )


def downgrade() -> None:
    op.drop_table("ratings")
    op.drop_table("rating_rounds")
