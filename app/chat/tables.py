"""Conversations of the chat page: trees of messages, and the columns that look into them."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id, now


class Conversation(Base):
    __tablename__ = "conversations"
    __audited__ = True
    __unaudited__ = ("settings",)
    __hidden__ = ("title",)
    __table_args__ = (
        Index("ix_conversations_user_id_updated_at", "user_id", "updated_at"),
        Index("ix_conversations_shared", "workspace_id", postgresql_where="shared_at IS NOT NULL"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("cnv"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)  # schemas.Settings
    shared_at: Mapped[datetime | None]  # since when the workspace may read it
    created_at: Mapped[Created]
    updated_at: Mapped[datetime] = mapped_column(default=now)


class ChatMessage(Base):
    """A question or an answer. Its children are what was said after it: several are branches."""

    __tablename__ = "chat_messages"
    __table_args__ = (
        Index("ix_chat_messages_grams", "grams", postgresql_using="gin"),
        Index("ix_chat_messages_rated_at", "rated_at", postgresql_where="rated_at IS NOT NULL"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("msg"))
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("chat_messages.id"), index=True)
    role: Mapped[str]  # user or assistant
    content: Mapped[str] = mapped_column(default="")
    grams: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list, deferred=True)  # search.py
    created_at: Mapped[Created]

    # of an answer
    lane: Mapped[int] = mapped_column(default=0)  # the column that it was given in
    model: Mapped[str] = mapped_column(default="")  # the name at /v1
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)  # it was asked with
    reasoning: Mapped[str] = mapped_column(default="")
    state: Mapped[str] = mapped_column(default="done")  # streaming, done, stopped, failed
    error: Mapped[dict[str, Any] | None]  # {code, message, params} when it failed
    usage: Mapped[dict[str, Any]] = mapped_column(default=dict)  # tokens, first_token_ms ...
    rating: Mapped[int | None]  # 1 or -1
    correction: Mapped[str | None]  # what it should have been
    chosen_over: Mapped[list[str]] = mapped_column(default=list)  # answers it was preferred to
    rated_at: Mapped[datetime | None]  # when any of these three was last said


class ChatLane(Base):
    """A column: a model, and the message up to which the page shows the tree."""

    __tablename__ = "chat_lanes"

    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # from 0
    model: Mapped[str]
    head_id: Mapped[str | None] = mapped_column(ForeignKey("chat_messages.id"))


class ChatPreset(Base):
    """Settings that a person keeps under a name."""

    __tablename__ = "chat_presets"
    __audited__ = True
    __table_args__ = (
        Index("uq_chat_presets_owner", "workspace_id", "user_id", "name", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("pre"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[Created]
