"""Files that clients of the gateway sent or may fetch, and files on their way in parts."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


def file_id() -> str:
    return new_id("file").replace("_", "-")


class File(Base):
    """One file at `/v1/files`; its bytes stand in the store under `artefact`."""

    __tablename__ = "files"
    __audited__ = True
    __unaudited__ = (
        "md5",
        "artefact",
        "version_id",
    )
    __table_args__ = (Index("ix_files_workspace_id_created_at", "workspace_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=file_id)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))  # None: the platform
    file_name: Mapped[str]
    purpose: Mapped[str]  # fine-tune, batch, fine-tune-results, batch_output
    description: Mapped[str] = mapped_column(default="")  # DashScope's
    bytes: Mapped[int] = mapped_column(BigInteger)
    md5: Mapped[str]
    artefact: Mapped[str]
    # the dataset that it became, once a tuning job used it
    version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    # why it cannot be a dataset: {code, message, params, problems: [{line, path, message, params}]}
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]  # its bytes go with the next sweep


class FileUpload(Base):
    """A file that comes in parts, which lie in `settings.uploads` until it is complete."""

    __tablename__ = "file_uploads"
    __table_args__ = (Index("ix_file_uploads_workspace_id_status", "workspace_id", "status"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("upload"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    file_name: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)  # as announced
    keep_seconds: Mapped[int | None]  # of the file, once it is one
    status: Mapped[str] = mapped_column(default="pending")  # completed, cancelled, expired
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]


class FilePart(Base):
    __tablename__ = "file_parts"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("part"))
    upload_id: Mapped[str] = mapped_column(ForeignKey("file_uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[Created]
