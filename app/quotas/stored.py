"""Bytes that a workspace stores: datasets as they came, models, checkpoints that runs keep, files.

The tables belong to nouns that stand above this one, so they are read by name.
"""

from typing import Any

from sqlalchemy import Column, func, select, table
from sqlalchemy.orm import Session

from app.errors import N_, Invalid
from app.quotas import limits

versions = table("dataset_versions", *map(Column, ("dataset_id", "bytes")))
datasets = table("datasets", *map(Column, ("id", "workspace_id", "created_by", "deleted_at")))
models = table("models", *map(Column, ("workspace_id", "created_by", "purged_at", "size")))
jobs = table("jobs", *map(Column, ("id", "workspace_id", "created_by")))
checkpoints = table("job_checkpoints", *map(Column, ("job_id", "state", "size")))
files = table("files", *map(Column, ("workspace_id", "user_id", "deleted_at", "bytes")))


def used(db: Session, workspace_id: str, user_id: str | None = None) -> int:
    """Bytes, of the workspace or of what one member has made in it."""

    def of(query: Any, owner: Any, who: Any) -> int:
        query = query.where(owner.c.workspace_id == workspace_id)
        if user_id:
            query = query.where(owner.c[who] == user_id)
        return int(db.scalar(query) or 0)

    data = select(func.sum(versions.c.bytes)).join_from(
        versions, datasets, datasets.c.id == versions.c.dataset_id
    )
    kept = select(func.sum(checkpoints.c.size)).join_from(
        checkpoints, jobs, jobs.c.id == checkpoints.c.job_id
    )
    return (
        of(data.where(datasets.c.deleted_at.is_(None)), datasets, "created_by")
        + of(
            select(func.sum(models.c.size)).where(models.c.purged_at.is_(None)),
            models,
            "created_by",
        )
        # a published one stands among the models
        + of(kept.where(checkpoints.c.state == "kept"), jobs, "created_by")
        + of(select(func.sum(files.c.bytes)).where(files.c.deleted_at.is_(None)), files, "user_id")
    )


def check(db: Session, workspace_id: str, user_id: str | None, more: int = 0) -> None:
    """Before `more` bytes are kept. Raises Invalid where they would be too many; without `more`,
    where there is no room left at all.
    """
    found = limits.caps(db, workspace_id, user_id, "storage_bytes")
    if not found:
        return
    limits.lock(db, workspace_id)
    for whose, limit in found:
        have = used(db, workspace_id, whose)
        assert limit.amount is not None
        if have + more > limit.amount or have >= limit.amount:
            raise Invalid(
                N_(
                    "This needs %(more)s GiB, and %(left)s of this workspace's %(limit)s GiB of "
                    "storage are left. Delete what is not needed."
                )
                if whose is None
                else N_(
                    "This needs %(more)s GiB, and %(left)s of your %(limit)s GiB of storage are "
                    "left. Delete what is not needed."
                ),
                code="quota",
                field="quota",
                more=gib(more),
                left=gib(max(0, limit.amount - have)),
                limit=gib(limit.amount),
                quota="storage_bytes",
                own=whose is not None,
            )


def gib(count: int) -> str:
    return f"{count / 2**30:.3g}"
