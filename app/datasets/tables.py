"""Datasets and their versions. Rows themselves live in segments (design.md, section 7)."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, query_expression, relationship

from app.db import Base, Created, new_id


class Dataset(Base):
    __tablename__ = "datasets"
    __audited__ = True
    __unaudited__ = ("purged_at",)
    __table_args__ = (Index("ix_datasets_workspace_id_created_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ds"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"))  # None: preset
    name: Mapped[str]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Created]
    deleted_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]  # nobody brings it back: its rows and files go


class DatasetVersion(Base):
    __tablename__ = "dataset_versions"
    __audited__ = True
    __unaudited__ = (
        "recipe",
        "files",
        "rows",
        "bytes",
        "error_count",
        "warning_count",
        "segments",
        "checks",
        "edition",
        "content_hash",
        "upload",
        "published_at",
    )
    __audited_in__ = "view"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("dv"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    status: Mapped[str]  # see states.py
    format: Mapped[str] = mapped_column(default="")  # what the file was: formats.FORMATS
    kind: Mapped[str] = mapped_column(default="sft")  # what its rows are: sft, pretrain, ...
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    recipe: Mapped[dict[str, Any]] = mapped_column(default=dict)  # how it was made: {made, ...}
    mapping: Mapped[dict[str, Any] | None]  # which column is which field, if the names do not say
    files: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # [{name, bytes, rows}]
    file_name: Mapped[str]
    rows: Mapped[int] = mapped_column(default=0)  # good rows, the ones that will train
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # of the file as it came
    error_count: Mapped[int] = mapped_column(default=0)  # rows that cannot be used
    warning_count: Mapped[int] = mapped_column(default=0)
    segments: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # [{artefact, rows}]
    checks: Mapped[dict[str, Any]] = mapped_column(default=dict)  # {of, artefact, counts}: matching
    edition: Mapped[int] = mapped_column(default=0)  # of a draft: one more with every change
    content_hash: Mapped[str] = mapped_column(default="")  # of the rows, in order
    error: Mapped[dict[str, Any] | None]  # {code, message, params} when status is failed
    upload: Mapped[str] = mapped_column(default="")  # artefact of the file; empty once removed
    cursor: Mapped[dict[str, Any]] = mapped_column(default=dict)  # how far the work has come
    claimed_at: Mapped[datetime | None]  # since when somebody is at the next stretch of it
    attempts: Mapped[int] = mapped_column(default=0)  # at that stretch
    created_at: Mapped[Created]
    published_at: Mapped[datetime | None]

    dataset: Mapped[Dataset] = relationship(lazy="raise")
    tokens: Mapped[int | None] = query_expression()  # as last measured; where service.version reads


class DatasetIssue(Base):
    """A row that cannot be used, or a warning about one: line, path, reason."""

    __tablename__ = "dataset_issues"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    level: Mapped[str]  # error or warning
    file: Mapped[str] = mapped_column(default="")  # which of several
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


class DraftAct(Base):
    """What one click changed in a draft, and who clicked. Undone as one, the newest first."""

    __tablename__ = "draft_acts"
    __audited__ = True
    __unaudited__ = (
        "segments",
        "growth",
    )
    __audited_in__ = "view"
    __table_args__ = (UniqueConstraint("version_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("act"))
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    number: Mapped[int]  # 1, 2, … in the draft
    what: Mapped[str]  # edit, add, delete, restore, replace, publish
    state: Mapped[str]  # running, done, undone, dropped (undone for good), failed
    rows: Mapped[int] = mapped_column(default=0)  # that it changed
    growth: Mapped[int] = mapped_column(default=0)  # rows that the draft has more by it
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of a replace: find, …
    # {before, after}: of an act on very many rows, which wrote new segments and left no edits
    segments: Mapped[dict[str, Any] | None]
    cursor: Mapped[dict[str, Any]] = mapped_column(default=dict)  # how far the work has come
    claimed_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[dict[str, Any] | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    at: Mapped[Created]


class RowEdit(Base):
    """One row of a draft, changed by an act. The newest that is done says what the row is.

    A row stands at (place, rank): its number in the segments and an empty rank; what was added
    has the place of the row it follows, and a rank, or a place past the segments' end.
    """

    __tablename__ = "row_edits"
    __table_args__ = (Index("ix_row_edits_version_id_row_id", "version_id", "row_id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    act_id: Mapped[str] = mapped_column(ForeignKey("draft_acts.id"), index=True)
    row_id: Mapped[str]
    place: Mapped[int] = mapped_column(BigInteger)
    rank: Mapped[str] = mapped_column(default="")
    before: Mapped[bytes | None]  # the row's JSON; None: there was no such row
    after: Mapped[bytes | None]  # None: the row is deleted


class DatasetComparison(Base):
    """Two versions of a dataset, compared row by row; the rows that differ are an artefact."""

    __tablename__ = "dataset_comparisons"
    __table_args__ = (UniqueConstraint("old_id", "old_edition", "new_id", "new_edition"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("cmp"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    old_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    old_edition: Mapped[int]
    new_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    new_edition: Mapped[int]
    state: Mapped[str]  # running, done, failed
    artefact: Mapped[str] = mapped_column(default="")
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)  # added, removed, changed, same
    progress: Mapped[float] = mapped_column(default=0.0)  # 0 to 1
    claimed_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]


class DatasetMeasure(Base):
    """What a version's rows are to one tokenizer and chat template; measured once."""

    __tablename__ = "dataset_measures"
    __table_args__ = (UniqueConstraint("version_id", "key"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("me"))
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    key: Mapped[str]  # hash of tokenizer and chat template
    model_id: Mapped[str]
    state: Mapped[str]  # queued, running, done, failed
    fence: Mapped[int] = mapped_column(default=0)
    node_id: Mapped[str | None]
    pid: Mapped[int | None]
    pid_started: Mapped[float | None]
    progress: Mapped[float] = mapped_column(default=0.0)  # 0 to 1
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created]
    touched_at: Mapped[Created]
