"""What is wrong, whom to tell of it, and what came of telling."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id, now
from app.sealing import Sealed


class Alert(Base):
    """Something that fires, or did. Of one kind and subject at most one fires."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index(
            "uq_alerts_firing",
            "kind",
            "subject",
            unique=True,
            postgresql_where=text("resolved_at IS NULL"),
        ),
        Index("ix_alerts_workspace_id_fired_at", "workspace_id", "fired_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("alr"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: platform
    kind: Mapped[str]
    subject: Mapped[str]  # what it is about, such as a node's name or a job's id
    message: Mapped[str]  # a msgid
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    link: Mapped[str] = mapped_column(default="")  # a path of the console
    fired_at: Mapped[datetime] = mapped_column(default=now, index=True)
    resolved_at: Mapped[datetime | None]


class AlertRule(Base):
    """Of which kinds to tell whom, and how. Without a workspace: of everybody's."""

    __tablename__ = "alert_rules"
    __audited__ = True

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("alu"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"), index=True)
    name: Mapped[str]
    kinds: Mapped[list[str]]
    how: Mapped[str]  # mail, webhook, feishu, dingtalk, wecom
    addresses: Mapped[list[str]] = mapped_column(default=list)  # of mail
    host: Mapped[str] = mapped_column(default="")  # of the address, which is shown to nobody
    url: Mapped[str | None] = mapped_column(Sealed, deferred=True)
    secret: Mapped[str | None] = mapped_column(Sealed, deferred=True)  # signs what is sent
    language: Mapped[str] = mapped_column(default="zh")
    repeat_minutes: Mapped[int] = mapped_column(default=0)  # while it fires; 0: told once
    enabled: Mapped[bool] = mapped_column(default=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]


class AlertDelivery(Base):
    """One telling of one rule's recipients, tried until somebody answers."""

    __tablename__ = "alert_deliveries"
    __table_args__ = (
        Index("ix_alert_deliveries_due_at", "due_at", postgresql_where=text("state = 'waiting'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ald"))
    alert_id: Mapped[str | None] = mapped_column(
        ForeignKey("alerts.id", ondelete="CASCADE"), index=True
    )  # None: a test
    rule_id: Mapped[str] = mapped_column(
        ForeignKey("alert_rules.id", ondelete="CASCADE"), index=True
    )
    event: Mapped[str]  # firing, repeated, resolved, test
    state: Mapped[str] = mapped_column(default="waiting")  # delivered, given up
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(default=now)
    error: Mapped[dict[str, Any] | None]  # of the last try: {code, message, params}
    created_at: Mapped[Created]
    delivered_at: Mapped[datetime | None]
