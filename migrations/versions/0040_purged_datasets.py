"""Deleted datasets can be brought back until they are purged"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0040"
down_revision: str | None = "0039"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE datasets SET purged_at = deleted_at WHERE deleted_at IS NOT NULL")


def downgrade() -> None:
    op.drop_column("datasets", "purged_at")
