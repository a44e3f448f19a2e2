"""The migrations make exactly the tables that the code declares, and can be undone."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect

from app.db import engine
from app.tables import Base


@pytest.fixture
def config(database: None) -> Config:
    return Config(toml_file="pyproject.toml")


def tables() -> set[str]:
    return set(inspect(engine()).get_table_names()) - {"alembic_version"}


def test_down_to_nothing_and_up_again(config: Config) -> None:
    command.downgrade(config, "base")
    assert tables() == set()
    command.upgrade(config, "head")
    assert tables() == set(Base.metadata.tables)


def test_head_has_no_difference_to_the_code(config: Config) -> None:
    command.check(config)
