"""Nodes that join: tokens, access, and which rows of the node its database role reads"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0028"
down_revision: str | None = "0027"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OWN = "node_id = (SELECT danlu_node())"
OF_REPLICAS = "SELECT {} FROM replicas WHERE " + OWN  # noqa: S608
READS = {
    "nodes": "id = (SELECT danlu_node())",
    "devices": OWN,
    "leases": OWN,
    "jobs": OWN,
    "job_checkpoints": OWN,
    "replicas": OWN,
    "deployments": f"id IN ({OF_REPLICAS.format('deployment_id')})",
    "replica_logs": f"replica_id IN ({OF_REPLICAS.format('id')})",
    "dataset_measures": OWN,
}
FUNCTION = """
CREATE FUNCTION danlu_node() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
SET search_path FROM CURRENT AS $$
    SELECT node_id FROM node_access WHERE role = session_user AND removed_at IS NULL
$$
"""


def upgrade() -> None:
    op.create_table(
        "node_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("fk_node_tokens_created_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_node_tokens_token_hash")),
    )
    op.create_table(
        "node_access",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("broker_hash", sa.Text(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("joined_by", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["joined_by"], ["users.id"], name=op.f("fk_node_access_joined_by")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_access")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_node_access_key_hash")),
        sa.UniqueConstraint("role", name=op.f("uq_node_access_role")),
    )
    op.add_column("nodes", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(FUNCTION)
    for table, rows in READS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY node_reads ON {table} FOR SELECT USING ({rows})")


def downgrade() -> None:
    for table in READS:
        op.execute(f"DROP POLICY node_reads ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute("DROP FUNCTION danlu_node()")
    op.drop_column("nodes", "removed_at")
    op.drop_table("node_access")
    op.drop_table("node_tokens")
