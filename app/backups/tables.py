"""Backups that the platform made, or tried to."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Backup(Base):
    __tablename__ = "backups"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("bak"))
    state: Mapped[str] = mapped_column(default="waiting")  # running, succeeded, failed
    asked_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # None: the clock
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]
    node: Mapped[str] = mapped_column(default="")  # on whose disk the file is
    file: Mapped[str] = mapped_column(default="")
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    error: Mapped[dict[str, Any] | None]
