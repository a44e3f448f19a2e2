"""The priority of a deployment"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0039"
down_revision: str | None = "0038"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "deployments", sa.Column("priority", sa.Integer(), nullable=False, server_default="1")
    )
    op.alter_column("deployments", "priority", server_default=None)


def downgrade() -> None:
    op.drop_column("deployments", "priority")
