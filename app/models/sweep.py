"""What moves by itself is told to go on; what is over, is cleared away."""

import shutil
from datetime import timedelta

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from app import storage
from app.cluster.tables import Node
from app.db import now
from app.models import arriving, importing, sources, trash, weights
from app.models.states import CANCELLED, FAILED, IMPORTING, SUCCEEDED
from app.models.tables import Model, ModelImport
from app.queue import CONTROL, node_queue, send, transaction

KEPT = timedelta(days=1)  # that the bytes of an import that failed wait for another try


def resend(db: Session) -> None:
    """A step of the sweep: nudge whoever takes the next stretch, and who clears."""
    moving = select(ModelImport).where(
        ModelImport.state == IMPORTING,
        or_(ModelImport.claimed_at.is_(None), ModelImport.claimed_at < now() - importing.STALE),
    )
    for one in db.scalars(moving.order_by(ModelImport.created_at).limit(100)):
        node = db.get(Node, one.node_id) if one.node_id else None
        if one.node_id and (node is None or node.dead_at):
            one.node_id = None  # its bytes are lost with it, or lie on the only machine there is
        importing.nudge(db, one)
    for one in db.scalars(over().limit(100)):
        queue = node_queue(one.node_id) if one.node_id else CONTROL
        send(db, "workers.clear_import", one.id, queue=queue)
    if db.scalar(trash.expired(db).limit(1)) or db.scalar(unseen().limit(1)):
        send(db, "workers.clear_models")


def over() -> Select[ModelImport]:
    """Imports whose bytes nobody will need."""
    return select(ModelImport).where(
        ModelImport.cleared.is_(False),
        or_(
            ModelImport.state.in_((SUCCEEDED, CANCELLED)),
            (ModelImport.state == FAILED) & (ModelImport.finished_at < now() - KEPT),
        ),
    )


def unseen() -> Select[Model]:
    """Models of which nobody knows whether they have a chat template."""
    return select(Model).where(Model.templated.is_(None), Model.purged_at.is_(None))


def clear_import(import_id: str) -> None:
    """Remove what an import that is over left: the body of the task `workers.clear_import`."""
    with transaction() as db:
        one = db.scalar(over().where(ModelImport.id == import_id).with_for_update())
        if one is None:
            return
        shutil.rmtree(importing.place(one.id), ignore_errors=True)
        if one.source["from"] == "upload":
            storage.delete(sources.upload(one.id))
        if one.model_id is None:
            storage.delete(arriving.artefact(one.id))
        one.cleared, one.node_id = True, None


def clear_models() -> None:
    """Remove the files of models deleted long enough ago, and look at what was not looked at: the body
    of the task `workers.clear_models`.
    """
    with transaction() as db:
        gone = trash.purge(db)
    trash.remove(gone)
    with transaction() as db:
        for model in db.scalars(unseen().limit(20).with_for_update(skip_locked=True)):
            base = db.get(Model, model.base_id) if model.kind == "adapter" else None
            try:
                words = storage.fetch(model.artefact, without=(".safetensors",))
                model.templated = weights.templated(words) or bool(base and base.templated)
            except FileNotFoundError:
                model.templated = False
