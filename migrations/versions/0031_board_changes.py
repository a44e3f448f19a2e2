"""What the scheduler must read again"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0031"
down_revision: str | None = "0030"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# They run as their owner: a node's own role may write devices, and no changes.
FUNCTION = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO {schema}.board_changes (xid, what, of_id)
        VALUES (pg_current_xact_id()::text::bigint, '{what}', OLD.{column});
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.{column} <> OLD.{column}) THEN
        INSERT INTO {schema}.board_changes (xid, what, of_id)
        VALUES (pg_current_xact_id()::text::bigint, '{what}', NEW.{column});
    END IF;
    RETURN NULL;
END $$
"""
# reasons are the decision's own, save that of the platform's maintenance
WATCHED = {
    "devices": (
        "devices",
        "node_id",
        "{0}.node_id {0}.name {0}.kind {0}.model {0}.memory {0}.healthy {0}.taken"
        " jsonb_exists({0}.facts,'slice')".split(),
    ),
    "leases": (
        "leases",
        "node_id",
        "{0}.node_id {0}.device_id {0}.bytes {0}.exclusive {0}.workspace_id {0}.user_id"
        " {0}.created_at {0}.released_at".split(),
    ),
    "requests": (
        "request",
        "id",
        "{0}.workspace_id {0}.user_id {0}.devices {0}.memory {0}.kind {0}.model {0}.node_id"
        " {0}.priority {0}.preemptible {0}.seconds {0}.created_at {0}.granted_at {0}.saved_at"
        " {0}.preempted_at {0}.preempted_for {0}.preemptions {0}.reason='maintenance'".split(),
    ),
}


def upgrade() -> None:
    op.create_table(
        "board_changes",
        sa.Column("number", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("of_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_board_changes")),
    )
    op.create_index(op.f("ix_board_changes_xid"), "board_changes", ["xid"])
    op.create_index(
        "ix_leases_standing",
        "leases",
        ["node_id"],
        postgresql_where=sa.text("released_at IS NULL"),
    )
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    for table, (what, column, columns) in WATCHED.items():
        name = f"{table}_changed"
        row = ", ".join(columns)
        differs = f"({row.format('OLD')}) IS DISTINCT FROM ({row.format('NEW')})"
        op.execute(FUNCTION.format(schema=schema, name=name, what=what, column=column))
        op.execute(
            f"CREATE TRIGGER {name} AFTER INSERT OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
        op.execute(
            f"CREATE TRIGGER {name}_otherwise AFTER UPDATE ON {table}"
            f" FOR EACH ROW WHEN ({differs}) EXECUTE FUNCTION {name}()"
        )


def downgrade() -> None:
    for table in WATCHED:
        name = f"{table}_changed"
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP TRIGGER {name}_otherwise ON {table}")
        op.execute(f"DROP FUNCTION {name}()")
    op.drop_index("ix_leases_standing", table_name="leases")
    op.drop_table("board_changes")
