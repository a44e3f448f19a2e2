"""Which revision of the tables a database has, beside the newest that this code knows."""

from functools import lru_cache
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from app.config import ROOT
from app.db import engine
from app.errors import N_, DomainError

State = Literal["empty", "current", "older", "newer"]


class Newer(DomainError):
    """The tables were made by a Danlu that this one does not know."""

    status = 409
    code = "newer_schema"


def config() -> Config:
    return Config(toml_file=ROOT / "pyproject.toml")


@lru_cache
def known() -> tuple[str, ...]:
    """Every revision of this code, the newest first."""
    found = ScriptDirectory.from_config(config()).walk_revisions()
    return tuple(one.revision for one in found)


def revision(connection: Connection) -> str:
    """The database's revision; empty if it has none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def state(found: str) -> State:
    """How a database of revision `found` stands to this code."""
    if not found:
        return "empty"
    if found not in known():
        return "newer"
    return "current" if found == known()[0] else "older"


def refuse_newer(found: str) -> None:
    """Raises Newer."""
    if state(found) == "newer":
        raise Newer(
            N_(
                "This data was made by a newer Danlu (revision %(found)s; this one knows up to %(known)s). Start the newer one again, or restore a backup that this one has made."
            ),
            found=found,
            known=known()[0],
        )


def migrate() -> None:
    """To the newest revision, in one transaction: a failure changes nothing."""
    command.upgrade(config(), "head")


def is_empty() -> bool:
    """Whether the database has no table at all."""
    return not inspect(engine()).get_table_names()


def server_version(connection: Connection) -> int:
    """Postgres' major version."""
    return int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000


def database_size(connection: Connection) -> int:
    """Bytes on the server's disk, indexes included."""
    return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
