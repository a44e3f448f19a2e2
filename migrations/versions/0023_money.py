"""Prices of tokens, from a day on; charges, balances, free quotas, requests for more, warnings"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    before = sa.table("prices", *map(sa.column, ("device", "hour", "currency", "updated_at")))
    kept = op.get_bind().execute(sa.select(before)).all()
    op.drop_table("prices")
    prices = op.create_table(
        "prices",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("amount", sa.Numeric(18, 8), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", "what", "since", name=op.f("pk_prices")),
    )
    op.bulk_insert(
        prices,
        [
            {
                "kind": "device",
                "what": device,
                "since": at,
                "amount": hour,
                "currency": currency,
                "updated_at": at,
            }
            for device, hour, currency, at in kept
        ],
    )
    for table, name, type_, default in (
        ("reservations", "model_id", sa.Text(), ""),
        ("reservations", "base_id", sa.Text(), ""),
        ("usage", "trained_tokens", sa.BigInteger(), "0"),
        ("usage", "model_id", sa.Text(), ""),
        ("usage", "base_id", sa.Text(), ""),
    ):
        op.add_column(table, sa.Column(name, type_, nullable=False, server_default=default))
        op.alter_column(table, name, server_default=None)
    op.create_table(
        "accounts",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("parts", sa.Numeric(precision=38, scale=8), nullable=False),
        sa.Column("full", sa.Numeric(precision=38, scale=8), nullable=False),
        sa.Column("prepaid", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "currency", name=op.f("pk_accounts")),
    )
    op.create_table(
        "charges",
        sa.Column("usage_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("parts", sa.Numeric(precision=38, scale=8), nullable=False),
        sa.Column("free", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("usage_id", "currency", name=op.f("pk_charges")),
    )
    op.create_index("ix_charges_workspace_id_at", "charges", ["workspace_id", "at"], unique=False)
    op.create_table(
        "free_quotas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_free_quotas_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_free_quotas")),
    )
    op.create_index("ix_free_quotas_model_id", "free_quotas", ["model_id"], unique=False)
    op.create_table(
        "free_stops",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_free_stops_workspace_id")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "model_id", name=op.f("pk_free_stops")),
    )
    op.create_table(
        "quota_requests",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=True),
        sa.Column("granted_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["decided_by"], ["users.id"], name=op.f("fk_quota_requests_decided_by")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_quota_requests_user_id")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_quota_requests_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota_requests")),
    )
    op.create_index(
        "ix_quota_requests_workspace_id_at",
        "quota_requests",
        ["workspace_id", "created_at"],
        unique=False,
    )
    op.create_table(
        "quota_stops",
        sa.Column("owner_kind", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_quota_stops_workspace_id")
        ),
        sa.PrimaryKeyConstraint("owner_kind", "owner_id", name=op.f("pk_quota_stops")),
    )
    op.create_index("ix_quota_stops_workspace_id", "quota_stops", ["workspace_id"], unique=False)
    op.create_table(
        "quota_warnings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("used", sa.Numeric(precision=38, scale=8), nullable=False),
        sa.Column("limit", sa.Numeric(precision=38, scale=8), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_quota_warnings_user_id")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_quota_warnings_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota_warnings")),
        sa.UniqueConstraint(
            "workspace_id",
            "user_id",
            "name",
            "period",
            "level",
            name="uq_quota_warnings_of",
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_table(
        "top_ups",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("amount", sa.Numeric(precision=18, scale=6), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_top_ups_user_id")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_top_ups_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_top_ups")),
    )
    op.create_index("ix_top_ups_workspace_id_at", "top_ups", ["workspace_id", "at"], unique=False)
    op.create_table(
        "free_uses",
        sa.Column("free_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["free_id"], ["free_quotas.id"], name=op.f("fk_free_uses_free_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_free_uses_workspace_id")
        ),
        sa.PrimaryKeyConstraint("free_id", "workspace_id", name=op.f("pk_free_uses")),
    )


def downgrade() -> None:
    op.drop_column("usage", "base_id")
    op.drop_column("usage", "model_id")
    op.drop_column("usage", "trained_tokens")
    op.drop_column("reservations", "base_id")
    op.drop_column("reservations", "model_id")
    op.drop_table("free_uses")
    op.drop_index("ix_top_ups_workspace_id_at", table_name="top_ups")
    op.drop_table("top_ups")
    op.drop_table("quota_warnings")
    op.drop_index("ix_quota_stops_workspace_id", table_name="quota_stops")
    op.drop_table("quota_stops")
    op.drop_index("ix_quota_requests_workspace_id_at", table_name="quota_requests")
    op.drop_table("quota_requests")
    op.drop_table("free_stops")
    op.drop_index("ix_free_quotas_model_id", table_name="free_quotas")
    op.drop_table("free_quotas")
    op.drop_index("ix_charges_workspace_id_at", table_name="charges")
    op.drop_table("charges")
    op.drop_table("accounts")
    now = sa.table("prices", *map(sa.column, ("kind", "what", "since", "amount", "currency")))
    kept = op.get_bind().execute(
        sa.select(now)
        .ext(postgresql.distinct_on(now.c.what))
        .where(now.c.kind == "device", now.c.since <= sa.func.now())
        .order_by(now.c.what, now.c.since.desc())
    )
    rows = [
        {"device": row.what, "hour": row.amount, "currency": row.currency, "updated_at": row.since}
        for row in kept
        if row.amount is not None
    ]
    op.drop_table("prices")
    prices = op.create_table(
        "prices",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("hour", sa.Numeric(14, 6), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_prices")),
    )
    op.bulk_insert(prices, rows)
