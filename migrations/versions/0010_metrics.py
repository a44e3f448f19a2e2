"""Deployments: what engines say of themselves, over time"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.create_table(
        "replica_metrics",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=True),
        sa.Column("waiting", sa.Integer(), nullable=True),
        sa.Column("cache", sa.Float(), nullable=True),
        sa.Column("prompted", sa.BigInteger(), nullable=True),
        sa.Column("generated", sa.BigInteger(), nullable=True),
        sa.Column("gaps", JSON, nullable=False),
        sa.Column("devices", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["deployments.id"],
            name=op.f("fk_replica_metrics_deployment_id"),
        ),
        sa.PrimaryKeyConstraint("replica_id", "at", name=op.f("pk_replica_metrics")),
    )
    op.create_index(
        op.f("ix_replica_metrics_deployment_id_at"), "replica_metrics", ["deployment_id", "at"]
    )
    op.create_index(op.f("ix_replica_metrics_kept_at"), "replica_metrics", ["kept", "at"])
    op.create_index("ix_usage_owner_id_at", "usage", ["owner_id", "at"])


def downgrade() -> None:
    op.drop_index("ix_usage_owner_id_at", table_name="usage")
    op.drop_table("replica_metrics")
