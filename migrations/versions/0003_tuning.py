"""Tuning: estimates beside outcomes, loads of devices, webhooks, prices"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    for name, kind, value in (
        ("finishing", sa.Boolean(), "false"),
        ("report_to", JSON, "[]"),
    ):
        op.add_column("jobs", sa.Column(name, kind, nullable=False, server_default=value))
        op.alter_column("jobs", name, server_default=None)
    op.add_column("jobs", sa.Column("estimate", JSON, nullable=True))
    op.add_column("jobs", sa.Column("outcome", JSON, nullable=True))
    op.add_column("jobs", sa.Column("tensorboard", sa.Text(), nullable=True))
    op.create_table(
        "job_loads",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_loads_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_loads")),
    )
    op.create_index("ix_job_loads_job_id_id", "job_loads", ["job_id", "id"])
    op.create_table(
        "job_webhooks",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_webhooks_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_webhooks")),
    )
    op.create_index(
        "ix_job_webhooks_due",
        "job_webhooks",
        ["due_at"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "webhook_keys",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_webhook_keys_workspace_id")
        ),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_webhook_keys")),
    )
    op.create_table(
        "prices",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("hour", sa.Numeric(14, 6), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_prices")),
    )


def downgrade() -> None:
    for name in ("prices", "webhook_keys", "job_webhooks", "job_loads"):
        op.drop_table(name)
    for name in ("tensorboard", "outcome", "estimate", "report_to", "finishing"):
        op.drop_column("jobs", name)
