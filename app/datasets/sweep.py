"""What moves by itself is told to go on, whatever became of the message that said so before."""

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session

from app.datasets import trash
from app.datasets.service import STALE, nudge
from app.datasets.states import DRAFT, FAILED, MOVING, PUBLISHED, READING
from app.datasets.tables import Dataset, DatasetVersion, DraftAct
from app.db import now
from app.queue import send


def resend(db: Session) -> None:
    """Nudge whoever takes the next stretch of what nobody is at, and what is to be cleared."""
    for one in db.scalars(
        select(DatasetVersion)
        .where(
            DatasetVersion.status.in_(MOVING),
            or_(DatasetVersion.claimed_at.is_(None), DatasetVersion.claimed_at < now() - STALE),
        )
        .order_by(DatasetVersion.created_at)
        .limit(100)
    ):
        nudge(db, one)
    unknown = (
        select(DatasetVersion.id)
        .join(DatasetVersion.dataset)
        .where(
            DatasetVersion.status.in_((DRAFT, PUBLISHED)),
            DatasetVersion.segments != [],
            DatasetVersion.checks["of"].is_distinct_from(DatasetVersion.segments),
            Dataset.deleted_at.is_(None),
        )
        .order_by(DatasetVersion.created_at.desc())
    )
    for version_id in db.scalars(unknown.limit(10)):
        send(db, "workers.check_dataset", version_id)
    left = exists().where(
        DatasetVersion.dataset_id == Dataset.id,
        or_(
            # the upload of what is validated, or failed
            and_(
                DatasetVersion.upload != "",
                or_(Dataset.purged_at.is_not(None), DatasetVersion.status.not_in(READING)),
            ),
            and_(
                or_(Dataset.purged_at.is_not(None), DatasetVersion.status == FAILED),
                DatasetVersion.segments != [],
            ),
            # what only undoing would need
            and_(
                or_(Dataset.purged_at.is_not(None), DatasetVersion.status.in_((PUBLISHED, FAILED))),
                exists().where(DraftAct.version_id == DatasetVersion.id, DraftAct.segments != {}),
            ),
        ),
    )
    over = trash.expired(db).with_only_columns(Dataset.id).limit(100)
    for dataset_id in {*db.scalars(select(Dataset.id).where(left).limit(100)), *db.scalars(over)}:
        send(db, "workers.clear_dataset", dataset_id)
