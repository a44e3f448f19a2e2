"""Limits of API keys; cached and reasoning tokens"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSON = postgresql.JSONB(astext_type=sa.Text())
NUMBERS = {
    "rpm": sa.Integer(),
    "tpm": sa.BigInteger(),
    "parallel": sa.Integer(),
    "daily_tokens": sa.BigInteger(),
    "total_tokens": sa.BigInteger(),
}


def upgrade() -> None:
    for name in ("models", "ips"):
        op.add_column("api_keys", sa.Column(name, JSON, nullable=False, server_default="[]"))
        op.alter_column("api_keys", name, server_default=None)
    for name, kind in NUMBERS.items():
        op.add_column("api_keys", sa.Column(name, kind, nullable=True))
    for name in ("cached_tokens", "reasoning_tokens"):
        op.add_column("usage", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
        op.alter_column("usage", name, server_default=None)
    op.create_index("ix_usage_api_key_id_at", "usage", ["api_key_id", "at"])


def downgrade() -> None:
    op.drop_index("ix_usage_api_key_id_at", table_name="usage")
    for name in ("reasoning_tokens", "cached_tokens"):
        op.drop_column("usage", name)
    for name in (*reversed(NUMBERS), "ips", "models"):
        op.drop_column("api_keys", name)
