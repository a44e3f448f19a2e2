"""Candidates behind an endpoint elsewhere"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0036"
down_revision: str | None = "0035"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("evaluation_candidates", sa.Column("secret_id", sa.Text(), nullable=True))
    op.add_column("evaluation_candidates", sa.Column("per_minute", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("evaluation_candidates", "per_minute")
    op.drop_column("evaluation_candidates", "secret_id")
