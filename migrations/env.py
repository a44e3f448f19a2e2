"""How Alembic reaches the database: the platform's own engine, one migrator at a time."""

from alembic import context
from sqlalchemy import text

from app.db import engine
from app.tables import Base

LOCK = 0x64616E6C75  # "danlu": two processes that start at once migrate one after the other


def run() -> None:
    with engine().connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            context.run_migrations()


run()
