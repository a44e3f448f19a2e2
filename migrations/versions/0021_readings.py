"""What devices did, what speaks against them, and how busy who holds them made them"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
NEW: tuple[tuple[str, sa.Column], ...] = (
    ("nodes", sa.Column("labels", JSON, nullable=False, server_default="{}")),
    ("nodes", sa.Column("drain_since", sa.DateTime(timezone=True), nullable=True)),
    ("nodes", sa.Column("drain_until", sa.DateTime(timezone=True), nullable=True)),
    ("devices", sa.Column("problems", JSON, nullable=False, server_default="[]")),
    ("devices", sa.Column("taken", sa.BigInteger(), nullable=False, server_default="0")),
    ("devices", sa.Column("facts", JSON, nullable=False, server_default="{}")),
    ("devices", sa.Column("retired", sa.Boolean(), nullable=False, server_default="false")),
    ("leases", sa.Column("measured", sa.Float(), nullable=False, server_default="0")),
    ("leases", sa.Column("worked", sa.Float(), nullable=False, server_default="0")),
    ("leases", sa.Column("active_at", sa.DateTime(timezone=True), nullable=True)),
)


def upgrade() -> None:
    for table, column in NEW:
        op.add_column(table, column)
        if not column.nullable:
            op.alter_column(table, column.name, server_default=None)
    op.create_table(
        "device_readings",
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("use", sa.REAL(), nullable=True),
        sa.Column("memory", sa.BigInteger(), nullable=True),
        sa.Column("temperature", sa.REAL(), nullable=True),
        sa.Column("power", sa.REAL(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_device_readings_device_id")
        ),
        sa.PrimaryKeyConstraint("device_id", "step", "at", name=op.f("pk_device_readings")),
    )
    op.create_index("ix_device_readings_step_at", "device_readings", ["step", "at"])


def downgrade() -> None:
    op.drop_table("device_readings")
    for table, column in reversed(NEW):
        op.drop_column(table, column.name)
