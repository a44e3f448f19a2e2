"""Requests that are to happen once, and what they were answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, now


class OnceRequest(Base):
    """A POST with an Idempotency-Key. Without a status it is being worked on, or was interrupted."""

    __tablename__ = "once_requests"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    owner_id: Mapped[str] = mapped_column(primary_key=True)  # the API key, or the user
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]  # sha256 of what was asked
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)  # None: it held a secret, so it is gone
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
