"""A replica that makes way for another in its place"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

PLACE = ["deployment_id", "revision", "index"]


def upgrade() -> None:
    op.add_column(
        "replicas", sa.Column("moved", sa.Boolean(), nullable=False, server_default="false")
    )
    op.alter_column("replicas", "moved", server_default=None)
    op.drop_constraint("uq_replicas_deployment_id_revision_index", "replicas", type_="unique")
    op.create_index(
        "uq_replicas_place", "replicas", PLACE, unique=True, postgresql_where=sa.text("NOT moved")
    )


def downgrade() -> None:
    op.drop_index("uq_replicas_place", "replicas")
    op.create_unique_constraint("uq_replicas_deployment_id_revision_index", "replicas", PLACE)
    op.drop_column("replicas", "moved")
