"""Conversations of the chat page."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id, now


class Conversation(Base):
    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_user_id_updated_at", "user_id", "updated_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("cnv"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str]
    model: Mapped[str]  # the name at /v1
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)  # system, temperature ...
    created_at: Mapped[Created]
    updated_at: Mapped[datetime] = mapped_column(default=now)


class ChatMessage(Base):
    __tablename__ = "chat_messages"

    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]
    content: Mapped[str]
    usage: Mapped[dict[str, Any]] = mapped_column(default=dict)  # tokens, first_token_ms ...
    created_at: Mapped[Created]
