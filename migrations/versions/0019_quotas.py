"""Limits of every kind, of workspaces and members; device time reserved at submission"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from app.db import new_id, now

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BEFORE = sa.table("quotas", sa.column("workspace_id"), sa.column("devices"))


def upgrade() -> None:
    kept = op.get_bind().execute(sa.select(BEFORE)).all()
    op.drop_table("quotas")
    quotas = op.create_table(
        "quotas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("temporary", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_quotas_workspace_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_quotas_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quotas")),
        sa.UniqueConstraint(
            "workspace_id",
            "user_id",
            "name",
            "device",
            "temporary",
            name="uq_quotas_of",
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.bulk_insert(
        quotas,
        [
            {
                "id": new_id("quo"),
                "workspace_id": workspace_id,
                "user_id": None,
                "name": "devices",
                "device": "",
                "amount": devices,
                "until": None,
                "temporary": False,
                "updated_at": now(),
            }
            for workspace_id, devices in kept
            if devices is not None
        ],
    )
    op.create_table(
        "reservations",
        sa.Column("owner_kind", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("device_ms", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_reservations_workspace_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reservations_user_id")),
        sa.PrimaryKeyConstraint("owner_kind", "owner_id", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_workspace_id", "reservations", ["workspace_id"])
    op.add_column("leases", sa.Column("metered_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("usage", sa.Column("device", sa.Text(), nullable=False, server_default=""))
    op.alter_column("usage", "device", server_default=None)
    op.create_index(
        "ix_usage_devices",
        "usage",
        ["workspace_id", "at"],
        postgresql_where=sa.text("kind <> 'tokens'"),
    )


def downgrade() -> None:
    held = sa.table(
        "quotas",
        sa.column("workspace_id"),
        sa.column("user_id"),
        sa.column("name"),
        sa.column("device"),
        sa.column("temporary"),
        sa.column("amount"),
    )
    kept = (
        op.get_bind()
        .execute(
            sa.select(held.c.workspace_id, held.c.amount).where(
                held.c.workspace_id.is_not(None),
                held.c.user_id.is_(None),
                held.c.name == "devices",
                held.c.device == "",
                held.c.temporary.is_(False),
            )
        )
        .all()
    )
    op.drop_index("ix_usage_devices", "usage")
    op.drop_column("usage", "device")
    op.drop_column("leases", "metered_at")
    op.drop_table("reservations")
    op.drop_table("quotas")
    quotas = op.create_table(
        "quotas",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_quotas_workspace_id")
        ),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_quotas")),
    )
    op.bulk_insert(
        quotas,
        [
            {"workspace_id": workspace_id, "devices": amount, "updated_at": now()}
            for workspace_id, amount in kept
        ],
    )
