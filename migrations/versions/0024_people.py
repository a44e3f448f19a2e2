"""Personal workspaces, invitations, reset links, service accounts, scopes for members"""

import re
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from app.db import new_id

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.alter_column("users", "password_hash", nullable=True)
    op.add_column(
        "users", sa.Column("is_service", sa.Boolean(), nullable=False, server_default="false")
    )
    op.add_column("workspaces", sa.Column("personal_of", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_workspaces_personal_of"), "workspaces", "users", ["personal_of"], ["id"]
    )
    op.create_unique_constraint(op.f("uq_workspaces_personal_of"), "workspaces", ["personal_of"])
    create_invitations()
    create_reset_links()
    op.execute(
        """UPDATE api_keys SET scopes = scopes || '["members:read", "members:write"]'
        WHERE scopes ? 'account'"""
    )
    give_everybody_a_workspace()


def create_invitations() -> None:
    op.create_table(
        "invitations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("invited_by", sa.Text(), nullable=False),
        sa.Column("accepted_by", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("accepted_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["workspace_id"],
            ["workspaces.id"],
            name=op.f("fk_invitations_workspace_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["invited_by"], ["users.id"], name=op.f("fk_invitations_invited_by")
        ),
        sa.ForeignKeyConstraint(
            ["accepted_by"], ["users.id"], name=op.f("fk_invitations_accepted_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_invitations_token_hash")),
    )
    op.create_index(op.f("ix_invitations_email"), "invitations", ["email"])
    op.create_index(
        "ix_invitations_workspace_id_created_at", "invitations", ["workspace_id", "created_at"]
    )


def create_reset_links() -> None:
    op.create_table(
        "reset_links",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reset_links_user_id")),
        sa.ForeignKeyConstraint(["made_by"], ["users.id"], name=op.f("fk_reset_links_made_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reset_links")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_reset_links_token_hash")),
    )
    op.create_index(op.f("ix_reset_links_user_id"), "reset_links", ["user_id"])


def give_everybody_a_workspace() -> None:
    """As `accounts.service.create_user` does for those who come later."""
    connection = op.get_bind()
    taken = set(connection.scalars(sa.text("SELECT slug FROM workspaces")))
    people = connection.execute(sa.text("SELECT id, email, name FROM users ORDER BY created_at"))
    for user_id, email, name in people.all():
        base = re.sub(r"[^a-z0-9]+", "-", email.split("@")[0]).strip("-")[:40] or "workspace"
        slug, number = base, 1
        while slug in taken:
            number += 1
            slug = f"{base}-{number}"
        taken.add(slug)
        made = {"id": new_id("ws"), "slug": slug, "name": name, "user": user_id}
        connection.execute(
            sa.text(
                "INSERT INTO workspaces (id, slug, name, personal_of, created_at) "
                "VALUES (:id, :slug, :name, :user, now())"
            ),
            made,
        )
        connection.execute(
            sa.text(
                "INSERT INTO memberships (workspace_id, user_id, role, created_at) "
                "VALUES (:id, :user, 'owner', now())"
            ),
            made,
        )


def downgrade() -> None:
    op.execute("UPDATE api_keys SET scopes = scopes - 'members:read' - 'members:write'")
    op.drop_table("reset_links")
    op.drop_table("invitations")
    op.drop_column("workspaces", "personal_of")  # a personal workspace is one like any other then
    op.drop_column("users", "is_service")
    op.execute("UPDATE users SET password_hash = '' WHERE password_hash IS NULL")
    op.alter_column("users", "password_hash", nullable=False)
