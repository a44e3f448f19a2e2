"""Users' secrets; and what signs webhooks is sealed as well"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app import sealing

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "user_secrets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("tail", sa.Text(), nullable=False),
        sa.Column("checked", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_user_secrets_workspace_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_secrets_user_id")),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("fk_user_secrets_created_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_secrets")),
        sa.UniqueConstraint(
            "user_id",
            "workspace_id",
            "kind",
            "name",
            name=op.f("uq_user_secrets_user_id_workspace_id_kind_name"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(op.f("ix_user_secrets_workspace_id"), "user_secrets", ["workspace_id"])
    webhook_keys(sealing.seal)


def downgrade() -> None:
    webhook_keys(sealing.unseal)
    op.drop_table("user_secrets")


def webhook_keys(change: Callable[[str], str]) -> None:
    db = op.get_bind()
    rows = db.execute(sa.text("SELECT workspace_id, secret, former FROM webhook_keys")).all()
    for workspace_id, secret, former in rows:
        db.execute(
            sa.text("UPDATE webhook_keys SET secret = :s, former = :f WHERE workspace_id = :w"),
            {"s": change(secret), "f": change(former) if former else None, "w": workspace_id},
        )
