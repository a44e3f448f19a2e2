"""Jobs that start from a checkpoint of an earlier one; signing keys that are replaced"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("start", sa.Text(), nullable=True))
    op.add_column("webhook_keys", sa.Column("former", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("webhook_keys", "former")
    op.drop_column("jobs", "start")
