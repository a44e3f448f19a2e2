"""Labels of nodes that jobs and deployments ask for"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0038"
down_revision: str | None = "0037"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
TABLES = ("requests", "jobs", "deployments")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(
            table, sa.Column("labels", postgresql.JSONB(), nullable=False, server_default="{}")
        )
        op.alter_column(table, "labels", server_default=None)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_column(table, "labels")
