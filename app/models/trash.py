"""Deleted models: for a week they can be brought back, then their files go."""

from datetime import datetime, timedelta

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app import storage
from app.db import now
from app.errors import N_, Conflict, NotFound
from app.models import service
from app.models.tables import Model

WEEK = timedelta(days=7)
MOST = 200


def until(model: Model) -> datetime | None:
    """When a deleted model's files go."""
    return model.deleted_at + WEEK if model.deleted_at else None


def deleted(db: Session, workspace_id: str) -> list[Model]:
    """The workspace's models that can still be brought back, the last deleted first."""
    query = select(Model).where(
        Model.workspace_id == workspace_id,
        Model.deleted_at > now() - WEEK,
        Model.purged_at.is_(None),
    )
    return list(db.scalars(query.order_by(Model.deleted_at.desc()).limit(MOST)))


def restore(db: Session, workspace_id: str, model_id: str) -> Model:
    """Bring a deleted model back; if its name is taken meanwhile, it gets a number.

    Raises NotFound, Conflict if it is not deleted, or its base is.
    """
    query = select(Model).where(Model.id == model_id, Model.workspace_id == workspace_id)
    model = db.scalar(query.with_for_update())
    if model is None or model.purged_at:
        raise NotFound(N_("There is no such deleted model, or its week is over."))
    if model.deleted_at is None:
        raise Conflict(N_("“%(name)s” is not deleted."), name=model.name)
    base = db.get(Model, model.base_id) if model.kind == "adapter" and model.base_id else None
    if base is not None and base.deleted_at:
        raise Conflict(
            N_("“%(name)s” runs on “%(base)s”, which is deleted too. Restore that first."),
            code="base_deleted",
            name=model.name,
            base=base.name,
        )
    model.name = service.free_name(db, workspace_id, model.name)
    model.deleted_at = None
    db.flush()
    return model


def expired() -> Select[Model]:
    return select(Model).where(Model.deleted_at <= now() - WEEK, Model.purged_at.is_(None))


def purge(db: Session) -> list[str]:
    """Mark what nobody can bring back any more; the artefacts to remove once that is committed.

    The row stays, for the lineage of others. Files that another model has, too, stay with it.
    """
    gone = []
    for model in db.scalars(expired().limit(20).with_for_update(skip_locked=True)):
        model.purged_at = now()
        db.flush()
        held = select(func.count()).where(
            Model.artefact == model.artefact, Model.purged_at.is_(None)
        )
        if not db.scalar(held):
            gone.append(model.artefact)
    return gone


def remove(artefacts: list[str]) -> None:
    for artefact in artefacts:
        storage.delete(artefact)
