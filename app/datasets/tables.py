"""Datasets and their versions. Rows themselves live in segments (design.md, section 7)."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, Created, new_id


class Dataset(Base):
    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_workspace_id_created_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ds"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: preset
    name: Mapped[str]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    deleted_at: Mapped[datetime | None]


class DatasetVersion(Base):
    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("dv"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    status: Mapped[str]  # see states.py
    format: Mapped[str] = mapped_column(default="")  # messages or alpaca: what the file was
    file_name: Mapped[str]
    rows: Mapped[int] = mapped_column(default=0)  # good rows, the ones that will train
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # of the file as it came
    error_count: Mapped[int] = mapped_column(default=0)  # rows that cannot be used
    warning_count: Mapped[int] = mapped_column(default=0)
    segments: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # [{artefact, rows}]
    content_hash: Mapped[str] = mapped_column(default="")  # of the rows, in order
    error: Mapped[dict[str, Any] | None]  # {code, message, params} when status is failed
    upload: Mapped[str] = mapped_column(default="")  # artefact of the file; empty once removed
    cursor: Mapped[dict[str, Any]] = mapped_column(default=dict)  # how far the work has come
    claimed_at: Mapped[datetime | None]  # since when somebody is at the next stretch of it
    attempts: Mapped[int] = mapped_column(default=0)  # at that stretch
    created_at: Mapped[Created]
    published_at: Mapped[datetime | None]

    dataset: Mapped[Dataset] = relationship(lazy="raise")


class DatasetIssue(Base):
    """A row that cannot be used, or a warning about one: line, path, reason."""

    __tablename__ = "dataset_issues"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    level: Mapped[str]  # error or warning
    line: Mapped[int]  # 1-based line (JSONL) or 1-based element (JSON array)
    path: Mapped[str]  # messages[2].role
    code: Mapped[str]
    message: Mapped[str]  # msgid
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)


class DatasetEvent(Base):
    """A change of status, and who asked for it (None: the platform)."""

    __tablename__ = "dataset_events"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    at: Mapped[Created]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    old: Mapped[str | None]
    new: Mapped[str]


class DatasetPin(Base):
    """A noun above needs this version; deleting what is pinned is refused."""

    __tablename__ = "dataset_pins"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    owner_kind: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(primary_key=True)
