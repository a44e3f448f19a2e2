"""What a call of a tuned model does that is not deployed"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "workspaces", sa.Column("tuned_calls", sa.Text(), server_default="load", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("workspaces", "tuned_calls")
