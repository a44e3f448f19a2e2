"""Nodes that join: tokens to do so once, and what they may then use."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class NodeToken(Base):
    """Lets one machine join, once."""

    __tablename__ = "node_tokens"
    __audited__ = True

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("njt"))
    token_hash: Mapped[str] = mapped_column(unique=True)  # SHA-256, hex
    node_id: Mapped[str | None]  # the only name it is good for; None: any that is free
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    used_by: Mapped[str | None]  # the node


class NodeAccess(Base):
    """Of a node that has joined: its database role, its broker user, its key at the platform."""

    __tablename__ = "node_access"
    __audited__ = True

    node_id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(unique=True)  # in Postgres; `danlu_node()` looks it up
    key_hash: Mapped[str] = mapped_column(unique=True)  # SHA-256, hex
    broker_hash: Mapped[str]  # the same of its broker user's password, as ACL SETUSER takes it
    joined_at: Mapped[Created]
    joined_by: Mapped[str] = mapped_column(ForeignKey("users.id"))  # who made the token
    removed_at: Mapped[datetime | None]
