"""Deleted models: for some days, a platform setting, they can be brought back, then their files go.

A model that nobody can bring back any more is marked first (`purged_at`), then its files go, then it
names none. Whoever is killed in between is followed by the next, who finds what still names files.
"""

from datetime import datetime, timedelta

from sqlalchemy import Select, or_, select, update
from sqlalchemy.orm import Session

from app import storage
from app.accounts import audit, platform
from app.db import now
from app.errors import N_, Conflict, NotFound
from app.models import service
from app.models.tables import Model
from app.queue import transaction

MOST = 200
PIECE = 20  # models that go at a time


def grace(db: Session) -> timedelta:
    return timedelta(days=platform.read(db).retention.deleted_days)


def until(db: Session, model: Model) -> datetime | None:
    """When a deleted model's files go."""
    return model.deleted_at + grace(db) if model.deleted_at else None


def deleted(db: Session, workspace_id: str) -> list[Model]:
    """The workspace's models that can still be brought back, the last deleted first."""
    query = select(Model).where(
        Model.workspace_id == workspace_id,
        Model.deleted_at > now() - grace(db),
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
        raise NotFound(N_("There is no such deleted model, or its files are gone."))
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


def expired(db: Session) -> Select[Model]:
    """Those whose time is over, and that still have files."""
    over = (Model.deleted_at <= now() - grace(db)) & Model.purged_at.is_(None)
    return select(Model).where(or_(over, Model.purged_at.is_not(None) & (Model.artefact != "")))


def purge(db: Session) -> list[Model]:
    """Mark what nobody can bring back any more: some models whose files are to go (`remove`) once
    that is committed. The rows stay, for the lineage of others.
    """
    found = expired(db).order_by(Model.deleted_at, Model.id).limit(PIECE)
    gone = list(db.scalars(found.with_for_update(skip_locked=True)))
    for model in gone:
        if model.purged_at is None:
            model.purged_at = now()
            audit.note(
                db, "clear", "model", model.id, name=model.name, workspace_id=model.workspace_id,
                before={"bytes": model.size},
            )  # fmt: skip
    db.flush()
    return gone


def remove(gone: list[Model]) -> None:
    """The files of purged models, but what another model has, too. In units of work of its own."""
    for model in gone:
        with transaction() as db:
            shared = select(Model.id).where(
                Model.artefact == model.artefact, Model.purged_at.is_(None)
            )
            alone = bool(model.artefact) and db.scalar(shared.limit(1)) is None
        if alone:
            storage.delete(model.artefact)
        with transaction() as db:
            db.execute(update(Model).where(Model.id == model.id).values(artefact=""))
