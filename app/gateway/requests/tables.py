"""What was asked with API keys that keep a log, and what was answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, now


class LogChoice(Base):
    """What is kept of a key's requests. A key without a row keeps nothing."""

    __tablename__ = "request_log_choices"
    __audited__ = True
    __audited_in__ = "view"

    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    log: Mapped[str]  # metadata, full
    days: Mapped[int]  # after which an entry goes
    redact: Mapped[bool]
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class LoggedRequest(Base):
    """One request that an engine was asked. Text in it is a client's or a model's."""

    __tablename__ = "request_logs"
    __table_args__ = (
        Index("ix_request_logs_workspace_id_at", "workspace_id", "at"),
        Index("ix_request_logs_api_key_id_at", "api_key_id", "at"),
        Index("ix_request_logs_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # of the request, as in the ledger
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str]  # whose key it is
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    at: Mapped[Created]
    expires_at: Mapped[datetime]
    endpoint: Mapped[str]  # chat/completions
    model: Mapped[str]  # as it was asked for
    deployment_id: Mapped[str]
    status: Mapped[int]
    completed: Mapped[bool]  # to its end
    streamed: Mapped[bool]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    first_token_ms: Mapped[int | None]
    duration_ms: Mapped[int]
    full: Mapped[bool]  # else there is no text
    redacted: Mapped[bool]
    truncated: Mapped[bool]  # more was said than is kept
    asked: Mapped[dict[str, Any]]  # the body; without its text unless `full`
    answer: Mapped[dict[str, Any]]  # {choices: [{message | text, finish_reason}]} or {error}
    question: Mapped[str]  # the beginning of the last thing asked
    reply: Mapped[str]  # the beginning of the answer
    words: Mapped[str]  # all text, for searching
