"""Adapters that the engines of another deployment carry"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSONB = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    for column in (
        sa.Column("host_id", sa.Text(), nullable=True),
        sa.Column("sends", JSONB, nullable=False, server_default="{}"),
        sa.Column("adapters", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("adapter_rank", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("deployments", column)
    for name in ("sends", "adapters", "adapter_rank"):
        op.alter_column("deployments", name, server_default=None)
    op.create_foreign_key(
        op.f("fk_deployments_host_id"), "deployments", "deployments", ["host_id"], ["id"]
    )
    op.create_index(op.f("ix_deployments_host_id"), "deployments", ["host_id"])
    op.create_table(
        "adapter_loads",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("error", JSONB, nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["replica_id"],
            ["replicas.id"],
            name=op.f("fk_adapter_loads_replica_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployments.id"], name=op.f("fk_adapter_loads_deployment_id")
        ),
        sa.PrimaryKeyConstraint("replica_id", "deployment_id", name=op.f("pk_adapter_loads")),
    )
    op.create_index(op.f("ix_adapter_loads_deployment_id"), "adapter_loads", ["deployment_id"])
    op.add_column("jobs", sa.Column("deploy", sa.Text(), nullable=False, server_default=""))
    op.alter_column("jobs", "deploy", server_default=None)


def downgrade() -> None:
    op.drop_column("jobs", "deploy")
    op.drop_table("adapter_loads")
    op.drop_index(op.f("ix_deployments_host_id"), "deployments")
    op.drop_constraint(op.f("fk_deployments_host_id"), "deployments", type_="foreignkey")
    for name in ("asked_at", "adapter_rank", "adapters", "sends", "host_id"):
        op.drop_column("deployments", name)
