"""Deployments: revisions of settings, rolling replacement, schedules, phases of a start"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSONB = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    add("deployments", "memory", sa.BigInteger())
    add("deployments", "exclusive", sa.Boolean(), "false")
    add("deployments", "quantization", sa.Text(), "")
    add("deployments", "arguments", JSONB, "{}")
    add("deployments", "revision", sa.Integer(), "1")
    add("deployments", "previous", sa.Integer())
    add("deployments", "schedule", JSONB)
    add("deployments", "schedule_next", sa.DateTime(timezone=True))
    add("replicas", "revision", sa.Integer(), "1")
    add("replicas", "progress", sa.Integer())
    add("replicas", "phases", JSONB, "{}")
    add("replicas", "took", JSONB, "{}")
    add("replicas", "drain_until", sa.DateTime(timezone=True))
    op.drop_constraint("uq_replicas_deployment_id_index", "replicas", type_="unique")
    op.create_unique_constraint(
        "uq_replicas_deployment_id_revision_index",
        "replicas",
        ["deployment_id", "revision", "index"],
    )
    op.create_table(
        "deployment_revisions",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("settings", JSONB, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("restores", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", JSONB, nullable=True),
        sa.ForeignKeyConstraint(
            ["deployment_id"],
            ["deployments.id"],
            name=op.f("fk_deployment_revisions_deployment_id"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_deployment_revisions_user_id")
        ),
        sa.PrimaryKeyConstraint("deployment_id", "number", name=op.f("pk_deployment_revisions")),
    )
    op.execute(
        """
        INSERT INTO deployment_revisions
            (deployment_id, number, settings, user_id, created_at, ready_at)
        SELECT id, 1, jsonb_build_object(
            'engine', engine, 'devices', devices, 'max_model_len', max_model_len,
            'memory', NULL, 'exclusive', false, 'quantization', '', 'arguments', '{}'::jsonb,
            'estimate', estimate
        ), created_by, created_at, ready_at FROM deployments
        """
    )


def add(table: str, name: str, kind: sa.types.TypeEngine, value: str | None = None) -> None:
    """A column; one with a `value` for the rows that are there is not null, and has no default."""
    column = sa.Column(name, kind, nullable=value is None, server_default=value)
    op.add_column(table, column)
    if value is not None:
        op.alter_column(table, name, server_default=None)


def downgrade() -> None:
    op.drop_table("deployment_revisions")
    op.execute(
        "DELETE FROM replica_logs WHERE replica_id IN"
        " (SELECT r.id FROM replicas r JOIN deployments d ON d.id = r.deployment_id"
        "  WHERE r.revision <> d.revision)"
    )
    op.execute(
        "DELETE FROM replicas r USING deployments d"
        " WHERE d.id = r.deployment_id AND r.revision <> d.revision"
    )
    op.drop_constraint("uq_replicas_deployment_id_revision_index", "replicas", type_="unique")
    op.create_unique_constraint(
        "uq_replicas_deployment_id_index", "replicas", ["deployment_id", "index"]
    )
    for name in ("drain_until", "took", "phases", "progress", "revision"):
        op.drop_column("replicas", name)
    for name in (
        *("schedule_next", "schedule", "previous", "revision", "arguments"),
        *("quantization", "exclusive", "memory"),
    ):
        op.drop_column("deployments", name)
