"""Who asks for devices, how urgently, for how long, and what workspaces have had"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
TIME = sa.DateTime(timezone=True)
OPTIONAL: dict[str, sa.types.TypeEngine[Any]] = {
    "model": sa.Text(),
    "seconds": sa.Float(),
    "position": sa.Integer(),
    "starts_at": TIME,
    "saved_at": TIME,
    "preempted_at": TIME,
    "preempted_for": sa.Text(),
}


def upgrade() -> None:
    for table in ("requests", "leases"):
        op.add_column(table, sa.Column("user_id", sa.Text(), nullable=True))
        op.create_foreign_key(op.f(f"fk_{table}_user_id"), table, "users", ["user_id"], ["id"])
    for name, kind in OPTIONAL.items():
        op.add_column("requests", sa.Column(name, kind, nullable=True))
    op.add_column("requests", sa.Column("detail", JSON, nullable=False, server_default="{}"))
    op.add_column(
        "requests", sa.Column("preemptions", sa.Integer(), nullable=False, server_default="0")
    )
    op.execute("UPDATE requests SET priority = 1")
    op.add_column("jobs", sa.Column("device_model", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="1"))
    for table, name in (("requests", "detail"), ("requests", "preemptions"), ("jobs", "priority")):
        op.alter_column(table, name, server_default=None)
    op.create_table(
        "fair_shares",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_fair_shares_workspace_id")
        ),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_fair_shares")),
    )


def downgrade() -> None:
    op.drop_table("fair_shares")
    for name in ("priority", "device_model"):
        op.drop_column("jobs", name)
    op.execute("UPDATE requests SET priority = 0")
    for name in ("preemptions", "detail", *reversed(OPTIONAL)):
        op.drop_column("requests", name)
    for table in ("leases", "requests"):
        op.drop_constraint(op.f(f"fk_{table}_user_id"), table, type_="foreignkey")
        op.drop_column(table, "user_id")
