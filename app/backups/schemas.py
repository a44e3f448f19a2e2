"""What goes out about backups and disks."""

from datetime import datetime

from fastapi import Request
from pydantic import BaseModel

from app.backups.tables import Backup
from app.cluster.tables import Node
from app.web import said


class BackupOut(BaseModel):
    """A backup that the platform made: `state` is waiting, running, succeeded or failed."""

    id: str
    state: str
    node: str
    file: str
    size: int
    error: str
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, request: Request, row: Backup) -> "BackupOut":
        names = (name for name in cls.model_fields if name != "error")
        error = said(request, row.error) if row.error else ""
        return cls(error=error, **{name: getattr(row, name) for name in names})


class BackupList(BaseModel):
    """Backups, the newest first."""

    data: list[BackupOut]
    has_more: bool


class DiskOut(BaseModel):
    """The disk of a node's home, in bytes; `low` while it is below its floor."""

    node: str
    total: int
    free: int
    floor: int
    low: bool

    @classmethod
    def of(cls, node: Node) -> "DiskOut | None":
        """None of a node that has not told yet."""
        facts = node.facts.get("disk")
        return cls(node=node.id, **facts) if facts else None


class Disks(BaseModel):
    """The disk of every node that has told of it."""

    data: list[DiskOut]
    has_more: bool
