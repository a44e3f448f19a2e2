"""Money: what usage cost, what was paid in, what is free; warnings, and requests for more."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Index, Numeric, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id

Parts = Numeric(38, 8)  # 3,600,000ths of a unit of money: exact for hours and for tokens


class Charge(Base):
    """What one row of the ledger cost, by the prices of its time. Never changed."""

    __tablename__ = "charges"
    __table_args__ = (Index("ix_charges_workspace_id_at", "workspace_id", "at"),)

    usage_id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)  # empty: all of it was free
    workspace_id: Mapped[str]
    at: Mapped[datetime]
    parts: Mapped[Decimal] = mapped_column(Parts)
    free: Mapped[int] = mapped_column(BigInteger, default=0)  # tokens or milliseconds not charged


class Account(Base):
    """A workspace's money in one currency: what was paid in, less what was charged."""

    __tablename__ = "accounts"

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    parts: Mapped[Decimal] = mapped_column(Parts, default=Decimal(0))
    full: Mapped[Decimal] = mapped_column(Parts, default=Decimal(0))  # after the last top-up
    prepaid: Mapped[bool] = mapped_column(default=False)  # what it has is all there is


class TopUp(Base):
    """Money paid in, or taken out again; appended only."""

    __tablename__ = "top_ups"
    __audited__ = True
    __table_args__ = (Index("ix_top_ups_workspace_id_at", "workspace_id", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("top"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    at: Mapped[Created]
    amount: Mapped[Decimal] = mapped_column(Numeric(18, 6))
    currency: Mapped[str]
    note: Mapped[str] = mapped_column(default="")
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))


class FreeQuota(Base):
    """So much of a model is free for a workspace, up to a day."""

    __tablename__ = "free_quotas"
    __audited__ = True
    __table_args__ = (Index("ix_free_quotas_model_id", "model_id"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("free"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: each
    model_id: Mapped[str]
    kind: Mapped[str]  # tokens or device
    amount: Mapped[int] = mapped_column(BigInteger)  # tokens, or milliseconds x devices
    last_day: Mapped[date]  # UTC, the last on which it counts
    created_at: Mapped[Created]


class FreeUse(Base):
    """What a workspace has used of a free quota."""

    __tablename__ = "free_uses"

    free_id: Mapped[str] = mapped_column(
        ForeignKey("free_quotas.id", ondelete="CASCADE"), primary_key=True
    )
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger, default=0)


class FreeStop(Base):
    """A workspace wants to pay nothing for this model: calls stop when the free quota is used up."""

    __tablename__ = "free_stops"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    model_id: Mapped[str] = mapped_column(primary_key=True)


class QuotaRequest(Base):
    """Somebody asks for more, and what came of it."""

    __tablename__ = "quota_requests"
    __audited__ = True
    __table_args__ = (Index("ix_quota_requests_workspace_id_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ask"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    own: Mapped[bool]  # their own limit, which the workspace's admins decide; else the workspace's
    name: Mapped[str]
    device: Mapped[str] = mapped_column(default="")
    amount: Mapped[int] = mapped_column(BigInteger)  # as in `quotas`
    until: Mapped[datetime | None]
    why: Mapped[str]
    state: Mapped[str] = mapped_column(default="waiting")  # waiting, approved, refused, withdrawn
    granted: Mapped[int | None] = mapped_column(BigInteger)
    granted_until: Mapped[datetime | None]
    answer: Mapped[str] = mapped_column(default="")
    decided_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    decided_at: Mapped[datetime | None]
    created_at: Mapped[Created]


class Warned(Base):
    """A budget or a balance came near its end: once for each level of each period."""

    __tablename__ = "quota_warnings"
    __table_args__ = (
        UniqueConstraint(
            "workspace_id",
            "user_id",
            "name",
            "period",
            "level",
            name="uq_quota_warnings_of",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("warn"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]  # of a limit, or balance
    period: Mapped[str]  # when it began; of a balance the currency and the last top-up
    level: Mapped[int]  # percent: 80, 95, 100
    used: Mapped[Decimal] = mapped_column(Numeric(38, 8))  # as shown
    limit: Mapped[Decimal] = mapped_column(Numeric(38, 8))
    at: Mapped[Created]


class Stopped(Base):
    """A job or a deployment that was paused because a budget or the balance is used up."""

    __tablename__ = "quota_stops"
    __table_args__ = (Index("ix_quota_stops_workspace_id", "workspace_id"),)

    owner_kind: Mapped[str] = mapped_column(primary_key=True)  # job or deployment
    owner_id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str | None]
    name: Mapped[str]  # what was used up
    at: Mapped[Created]
