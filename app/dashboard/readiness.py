"""What `/readyz` looks at."""

from functools import cache

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.config import ROOT
from app.db import engine
from app.queue import redis_alive


def checks() -> dict[str, str]:
    """{database, migrations, redis}: `ok`, or what is wrong."""
    found = {"database": "ok", "migrations": "ok", "redis": "ok"}
    try:
        with engine().connect() as connection:
            at = set(connection.scalars(text("SELECT version_num FROM alembic_version")))
        if at != heads():
            found["migrations"] = f"at {', '.join(sorted(at)) or 'nothing'}: run the migrations"
    except SQLAlchemyError as error:
        known = "alembic_version" in str(error)
        found["migrations" if known else "database"] = "missing" if known else "does not answer"
    if not redis_alive():
        found["redis"] = "does not answer"
    return found


@cache
def heads() -> set[str]:
    """The newest revisions this code knows."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml"))
    return set(scripts.get_heads())
