"""Limits, and the ledger of what was used."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, now


class Quota(Base):
    """A workspace without a row has the platform's default: no limit."""

    __tablename__ = "quotas"
    __audited__ = True

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    devices: Mapped[int | None]  # held at once, jobs and deployments together; None: no limit
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Price(Base):
    """What an hour of a device costs. The row without a model's name counts for all others."""

    __tablename__ = "prices"
    __audited__ = True

    device: Mapped[str] = mapped_column(primary_key=True)  # as the device calls itself, or empty
    hour: Mapped[Decimal] = mapped_column(Numeric(14, 6))
    currency: Mapped[str]  # as it is shown: CNY, USD
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Usage(Base):
    """One row per request at the gateway or per lease given back. Never updated, never deleted.

    No foreign keys: the ledger outlives what it tells of.
    """

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_workspace_id_at", "workspace_id", "at"),
        Index("ix_usage_owner_id_at", "owner_id", "at"),
        Index("ix_usage_api_key_id_at", "api_key_id", "at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # request id or lease id: idempotent
    at: Mapped[Created]
    kind: Mapped[str]  # tokens or device
    workspace_id: Mapped[str]
    user_id: Mapped[str | None]
    api_key_id: Mapped[str | None]
    owner_kind: Mapped[str]  # deployment (tokens), job or replica (devices)
    owner_id: Mapped[str]
    model: Mapped[str] = mapped_column(default="")
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    cached_tokens: Mapped[int] = mapped_column(default=0)  # of the prompt
    reasoning_tokens: Mapped[int] = mapped_column(default=0)  # of the completion
    device_ms: Mapped[int] = mapped_column(BigInteger, default=0)  # milliseconds x devices
    first_token_ms: Mapped[int | None]
    duration_ms: Mapped[int | None]
    status: Mapped[int] = mapped_column(default=200)
    completed: Mapped[bool] = mapped_column(default=True)  # else tokens may be an estimate
