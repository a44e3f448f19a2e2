"""Limits, and the ledger of what was used."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id, now


class Quota(Base):
    """One limit: of every workspace (the platform's default), of one, or of a member in one.

    What stands nearest counts. A row with `until` is a raise (or a cut) that ends by itself, and
    comes before the lasting one beside it.
    """

    __tablename__ = "quotas"
    __audited__ = True
    __table_args__ = (
        UniqueConstraint(
            "workspace_id",
            "user_id",
            "name",
            "device",
            "temporary",
            name="uq_quotas_of",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("quo"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: all
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]  # see kinds.py
    device: Mapped[str] = mapped_column(default="")  # a model's name, of `devices` by type
    amount: Mapped[int | None] = mapped_column(BigInteger)  # None: no limit; hours in milliseconds
    until: Mapped[datetime | None]
    temporary: Mapped[bool] = mapped_column(default=False)  # whether it has an end
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Reservation(Base):
    """Device time that a job will likely take, held from its submission until it is over.

    Of a replica: which model its time is for; nothing is reserved for it.
    """

    __tablename__ = "reservations"
    __table_args__ = (Index("ix_reservations_workspace_id", "workspace_id"),)

    owner_kind: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    devices: Mapped[int]
    device_ms: Mapped[int] = mapped_column(BigInteger)  # milliseconds x devices, still to come
    waiting: Mapped[bool] = mapped_column(default=True)  # queued; else it has its devices
    model_id: Mapped[str] = mapped_column(default="")  # what it trains, or serves
    base_id: Mapped[str] = mapped_column(default="")
    created_at: Mapped[Created]


class Price(Base):
    """What something costs from a moment on. Never changed afterwards: a new row follows."""

    __tablename__ = "prices"
    __audited__ = True

    # device (an hour), or 1,000 tokens: trained, input, cached, output
    kind: Mapped[str] = mapped_column(primary_key=True)
    # a device's model, or the id of a model; empty: of all without a price of their own
    what: Mapped[str] = mapped_column(primary_key=True, default="")
    since: Mapped[datetime] = mapped_column(primary_key=True)
    amount: Mapped[Decimal | None] = mapped_column(Numeric(18, 8))  # None: no price any more
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
        Index(  # the few among the many requests
            "ix_usage_devices",
            "workspace_id",
            "at",
            postgresql_where=text("kind <> 'tokens'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # request id or lease id: idempotent
    at: Mapped[Created]
    kind: Mapped[str]  # tokens, device or train
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
    trained_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    model_id: Mapped[str] = mapped_column(default="")  # of the registry: what prices go by
    base_id: Mapped[str] = mapped_column(default="")  # of a tuned one, its base
    device: Mapped[str] = mapped_column(default="")  # the device's model
    device_ms: Mapped[int] = mapped_column(BigInteger, default=0)  # milliseconds x devices
    first_token_ms: Mapped[int | None]
    duration_ms: Mapped[int | None]
    status: Mapped[int] = mapped_column(default=200)
    completed: Mapped[bool] = mapped_column(default=True)  # else tokens may be an estimate
