"""Conversations become trees with columns; ratings, presets, search and sharing"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.chat.search import grams

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    message_columns()
    op.create_table(
        "chat_lanes",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("head_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name=op.f("fk_chat_lanes_conversation_id")
        ),
        sa.ForeignKeyConstraint(
            ["head_id"], ["chat_messages.id"], name=op.f("fk_chat_lanes_head_id")
        ),
        sa.PrimaryKeyConstraint("conversation_id", "number", name=op.f("pk_chat_lanes")),
    )
    op.execute(
        "INSERT INTO chat_lanes (conversation_id, number, model, head_id) "
        "SELECT id, 0, model, (SELECT m.id FROM chat_messages m "
        "WHERE m.conversation_id = c.id ORDER BY m.number DESC LIMIT 1) FROM conversations c"
    )
    op.drop_column("chat_messages", "number")
    op.drop_column("conversations", "model")
    op.add_column("conversations", sa.Column("shared_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_conversations_shared",
        "conversations",
        ["workspace_id"],
        postgresql_where=sa.text("shared_at IS NOT NULL"),
    )
    op.create_table(
        "chat_presets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_chat_presets_workspace_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_chat_presets_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_presets")),
    )
    op.create_index(
        "uq_chat_presets_owner", "chat_presets", ["workspace_id", "user_id", "name"], unique=True
    )


def message_columns() -> None:
    """Numbered messages become a chain: each is the child of the one before it."""
    op.add_column("chat_messages", sa.Column("id", sa.Text()))
    op.add_column("chat_messages", sa.Column("parent_id", sa.Text()))
    defaults: list[tuple[str, sa.types.TypeEngine, str]] = [
        ("grams", postgresql.ARRAY(sa.Text()), "'{}'"),
        ("lane", sa.Integer(), "0"),
        ("model", sa.Text(), "''"),
        ("settings", JSON, "'{}'"),
        ("reasoning", sa.Text(), "''"),
        ("state", sa.Text(), "'done'"),
        ("chosen_over", JSON, "'[]'"),
    ]
    for name, kind, default in defaults:
        op.add_column(
            "chat_messages", sa.Column(name, kind, nullable=False, server_default=sa.text(default))
        )
        op.alter_column("chat_messages", name, server_default=None)
    for name, free in (
        ("error", JSON),
        ("rating", sa.Integer()),
        ("correction", sa.Text()),
        ("rated_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("chat_messages", sa.Column(name, free, nullable=True))
    op.execute(
        "UPDATE chat_messages m SET "
        "id = 'msg_' || left(md5(m.conversation_id || '/' || m.number), 20), "
        "parent_id = (SELECT 'msg_' || left(md5(p.conversation_id || '/' || p.number), 20) "
        "FROM chat_messages p WHERE p.conversation_id = m.conversation_id "
        "AND p.number < m.number ORDER BY p.number DESC LIMIT 1)"
    )
    op.execute(
        "UPDATE chat_messages m SET model = c.model, settings = c.settings "
        "FROM conversations c WHERE c.id = m.conversation_id AND m.role = 'assistant'"
    )
    fill_grams()
    op.drop_constraint(op.f("pk_chat_messages"), "chat_messages", type_="primary")
    op.alter_column("chat_messages", "id", nullable=False)
    op.create_primary_key(op.f("pk_chat_messages"), "chat_messages", ["id"])
    op.create_foreign_key(
        op.f("fk_chat_messages_parent_id"), "chat_messages", "chat_messages", ["parent_id"], ["id"]
    )
    for column in ("conversation_id", "parent_id"):
        op.create_index(op.f(f"ix_chat_messages_{column}"), "chat_messages", [column])
    op.create_index("ix_chat_messages_grams", "chat_messages", ["grams"], postgresql_using="gin")
    op.create_index(
        "ix_chat_messages_rated_at",
        "chat_messages",
        ["rated_at"],
        postgresql_where=sa.text("rated_at IS NOT NULL"),
    )


def fill_grams() -> None:
    """What was said before can be searched too; a thousand messages at a time."""
    connection = op.get_bind()
    last = ""
    while True:
        found = connection.execute(
            sa.text(
                "SELECT id, content FROM chat_messages WHERE id > :last ORDER BY id LIMIT 1000"
            ),
            {"last": last},
        ).all()
        if not found:
            return
        connection.execute(
            sa.text("UPDATE chat_messages SET grams = :grams WHERE id = :id"),
            [{"id": one, "grams": grams(content)} for one, content in found],
        )
        last = found[-1][0]


def downgrade() -> None:
    op.add_column("conversations", sa.Column("model", sa.Text()))
    op.execute(
        "UPDATE conversations c SET model = coalesce((SELECT model FROM chat_lanes l "
        "WHERE l.conversation_id = c.id ORDER BY number LIMIT 1), '')"
    )
    op.alter_column("conversations", "model", nullable=False)
    op.drop_table("chat_lanes")
    op.drop_table("chat_presets")
    op.drop_index("ix_conversations_shared", table_name="conversations")
    op.drop_column("conversations", "shared_at")
    op.add_column("chat_messages", sa.Column("number", sa.Integer()))
    op.execute(
        "UPDATE chat_messages m SET number = n.number FROM (SELECT id, row_number() OVER "
        "(PARTITION BY conversation_id ORDER BY created_at, id) AS number FROM chat_messages) n "
        "WHERE n.id = m.id"
    )
    for index in ("grams", "rated_at", "conversation_id", "parent_id"):
        op.drop_index(f"ix_chat_messages_{index}", table_name="chat_messages")
    op.drop_constraint(op.f("fk_chat_messages_parent_id"), "chat_messages", type_="foreignkey")
    op.drop_constraint(op.f("pk_chat_messages"), "chat_messages", type_="primary")
    op.alter_column("chat_messages", "number", nullable=False)
    op.create_primary_key(op.f("pk_chat_messages"), "chat_messages", ["conversation_id", "number"])
    for name in (
        "id", "parent_id", "grams", "lane", "model", "settings", "reasoning", "state",
        "chosen_over", "error", "rating", "correction", "rated_at",
    ):  # fmt: skip
        op.drop_column("chat_messages", name)
