"""Deleted datasets: for some days, a platform setting, they can be brought back, then their rows go.

One that nobody can bring back any more is marked first (`purged_at`); then whoever clears it
(`work.clear`) removes its files, and whoever is killed at it is followed by the next.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.orm import Session

from app.accounts import audit, platform
from app.accounts.auth import Principal
from app.datasets.tables import Dataset, DatasetIssue, DatasetVersion
from app.db import now
from app.errors import N_, Conflict, NotFound
from app.quotas import stored

MOST = 200


@dataclass(frozen=True)
class Deleted:
    """A dataset that can be brought back until its rows go: `rows` of its newest version, `bytes` of
    all of them as they came.
    """

    id: str
    name: str
    rows: int
    bytes: int
    deleted_at: datetime
    until: datetime


def grace(db: Session) -> timedelta:
    return timedelta(days=platform.read(db).retention.deleted_days)


def size(dataset_id: object) -> ColumnElement[int]:
    """Bytes of its versions, as they came."""
    found = select(func.coalesce(func.sum(DatasetVersion.bytes), 0))
    return found.where(DatasetVersion.dataset_id == dataset_id).scalar_subquery()


def deleted(db: Session, workspace_id: str) -> list[Deleted]:
    """The workspace's, the last deleted first."""
    days = grace(db)
    newest = (
        select(DatasetVersion.rows)
        .where(DatasetVersion.dataset_id == Dataset.id)
        .order_by(DatasetVersion.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(Dataset, newest, size(Dataset.id))
        .where(
            Dataset.workspace_id == workspace_id,
            Dataset.deleted_at > now() - days,
            Dataset.purged_at.is_(None),
        )
        .order_by(Dataset.deleted_at.desc(), Dataset.id)
        .limit(MOST)
    )
    return [
        Deleted(one.id, one.name, rows or 0, int(total), one.deleted_at, one.deleted_at + days)
        for one, rows, total in db.execute(query)
    ]


def restore(db: Session, who: Principal, dataset_id: str) -> Dataset:
    """Bring a deleted dataset back. Raises NotFound, Conflict if it is not deleted, and Invalid where
    the storage quota has no room for it.
    """
    mine = select(Dataset).where(Dataset.id == dataset_id, Dataset.workspace_id == who.workspace_id)
    dataset = db.scalar(mine.with_for_update().execution_options(populate_existing=True))
    if dataset is None or dataset.purged_at:
        raise NotFound(N_("There is no such deleted dataset, or its rows are gone."))
    if dataset.deleted_at is None:
        raise Conflict(N_("“%(name)s” is not deleted."), name=dataset.name)
    stored.check(db, who.workspace_id, dataset.created_by, db.scalar(select(size(dataset.id))) or 0)
    dataset.deleted_at = None
    db.flush()
    return dataset


def expired(db: Session) -> Select[Dataset]:
    """Those whose time is over, and that still have anything."""
    over = Dataset.deleted_at <= now() - grace(db)
    left = select(DatasetVersion.id).where(
        DatasetVersion.dataset_id == Dataset.id,
        or_(DatasetVersion.segments != [], DatasetVersion.upload != ""),
    )
    return select(Dataset).where(over, or_(Dataset.purged_at.is_(None), left.exists()))


def purge(db: Session, dataset_id: str) -> bool:
    """Mark it if nobody can bring it back any more; whether it is marked now, so its files go."""
    dataset = db.get(Dataset, dataset_id, with_for_update=True, populate_existing=True)
    if dataset is None or dataset.purged_at:
        return True
    if dataset.deleted_at is None or dataset.deleted_at > now() - grace(db):
        return False
    dataset.purged_at = now()
    versions = select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset_id)
    db.execute(delete(DatasetIssue).where(DatasetIssue.version_id.in_(versions)))
    audit.note(
        db, "clear", "dataset", dataset.id, name=dataset.name, workspace_id=dataset.workspace_id,
        before={"bytes": db.scalar(select(size(dataset.id)))},
    )  # fmt: skip
    return True
