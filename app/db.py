"""The database: one engine, ids, and the base class of every table.

The unit of work is `app.queue.transaction`: it commits, then sends.
"""

import secrets
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

from sqlalchemy import DateTime, Engine, MetaData, Text, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.config import settings

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no 0/o, 1/l/i: ids are read aloud
LETTERS = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
UNEVEN = bytes(range(256 - 256 % len(ALPHABET), 256))  # with these some letters were more likely


def new_id(prefix: str) -> str:
    """`job_` and 20 random characters: 99 bits, safe in a URL and a file name."""
    found = b""
    while len(found) < 20:
        found += secrets.token_bytes(32).translate(LETTERS, UNEVEN)
    return f"{prefix}_{found[:20].decode()}"


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[str]: JSONB,
    }


Created = Annotated[datetime, mapped_column(default=now)]


@lru_cache
def engine() -> Engine:
    """Built on first use, so that importing `app` needs no database."""
    return create_engine(
        settings.database_url,
        pool_size=20,
        max_overflow=20,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,
    )
