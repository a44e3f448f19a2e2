"""Measures: what a version's rows are to one tokenizer and chat template, found out once.

Asked for here, carried out by a node (`workers.measures`). A measure is known by its version and
its key; whatever would change the result makes another key.
"""

import hashlib
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, joinedload

from app import storage
from app.datasets.states import DRAFT, FAILED, PUBLISHED
from app.datasets.tables import Dataset, DatasetMeasure, DatasetVersion
from app.db import new_id, now
from app.errors import N_, Conflict, Unavailable
from app.models import service as models
from app.models import vocabulary
from app.models.tables import Model

QUEUED, RUNNING, DONE, BROKEN = "queued", "running", "done", "failed"
MOVES = {
    QUEUED: {RUNNING, BROKEN},
    RUNNING: {QUEUED, DONE, BROKEN},
    DONE: set(),
    BROKEN: {QUEUED},
}
SILENT = timedelta(seconds=150)  # its node says nothing any more: it may be asked for again
ATTEMPTS = 3  # of a measure whose process dies without a word
DIED = {
    "code": "died",
    "message": N_("The measuring process was ended from outside several times."),
    "params": {},
}


def switch(db: Session, one: DatasetMeasure, state: str) -> None:
    """Move a measure, whose row the caller has locked. Raises Conflict."""
    if state not in MOVES[one.state]:
        raise Conflict(
            N_("A measure that is %(old)s cannot become %(new)s."), old=one.state, new=state
        )
    one.state, one.touched_at = state, now()
    one.pid = one.pid_started = None
    if state == QUEUED:
        one.node_id, one.progress, one.error = None, 0.0, None
    db.flush()


# -- asking ------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def digest(artefact: str) -> str:
    """Of a model's tokenizer and chat template; artefacts do not change. Raises Unavailable."""
    try:
        directory = words_of(artefact)
    except OSError as error:
        raise Unavailable(
            N_("The model's files cannot be read from the store."), code="artefact_missing"
        ) from error
    made = hashlib.sha256()
    more = (directory / "additional_chat_templates").glob("*.jinja")
    for path in [*(directory / name for name in vocabulary.FILES), *sorted(more)]:
        if path.is_file():
            made.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return made.hexdigest()


def words_of(artefact: str) -> Path:
    """A local directory with what decides a model's tokens, its weights left out."""
    return storage.fetch(artefact, without=(".safetensors",))


def key(version: DatasetVersion, model: Model) -> str:
    """What the result depends on: the rows, their kind, the tokenizer, the template."""
    parts = [version.kind, str(version.edition), *(one["artefact"] for one in version.segments)]
    return hashlib.sha256("\n".join([digest(model.artefact), *parts]).encode()).hexdigest()[:32]


def bases(db: Session, workspace_id: str) -> list[Model]:
    """The models that rows can be measured with: the starter first, then the others by name."""
    found = models.visible(db, workspace_id, "base")
    return sorted(found, key=lambda one: (one.name != models.STARTER, one.name))


def find(db: Session, version: DatasetVersion, model: Model) -> DatasetMeasure | None:
    return db.scalar(
        select(DatasetMeasure).where(
            DatasetMeasure.version_id == version.id, DatasetMeasure.key == key(version, model)
        )
    )


def ask(db: Session, version: DatasetVersion, model: Model) -> DatasetMeasure:
    """The measure, queued unless it is there; a failed one is tried again.

    Raises Conflict while the version's rows are not all there.
    """
    if version.status not in (DRAFT, PUBLISHED):
        raise Conflict(
            N_("Version %(number)s cannot be measured: it is %(status)s."),
            code="not_ready",
            number=version.number,
            status=version.status,
        )
    wanted = key(version, model)
    values = {"version_id": version.id, "key": wanted, "model_id": model.id, "state": QUEUED}
    times = {"created_at": now(), "touched_at": now(), "fence": 0, "progress": 0.0}
    row = insert(DatasetMeasure).values(id=new_id("me"), **values, **times)
    db.execute(row.on_conflict_do_nothing())
    one = db.scalars(
        select(DatasetMeasure)
        .where(DatasetMeasure.version_id == version.id, DatasetMeasure.key == wanted)
        .with_for_update()
    ).one()
    silent = one.state == RUNNING and one.touched_at < now() - SILENT
    if one.state == BROKEN or silent:
        switch(db, one, QUEUED)
    db.execute(  # of earlier editions of the draft
        delete(DatasetMeasure).where(
            DatasetMeasure.version_id == version.id,
            DatasetMeasure.model_id == model.id,
            DatasetMeasure.key != wanted,
            DatasetMeasure.state != RUNNING,
        )
    )
    return one


# -- what nodes do -----------------------------------------------------------------------


def active_on(db: Session, node_id: str) -> list[DatasetMeasure]:
    """What runs, or is about to, on a node."""
    query = select(DatasetMeasure).where(
        DatasetMeasure.state == RUNNING, DatasetMeasure.node_id == node_id
    )
    return list(db.scalars(query.order_by(DatasetMeasure.created_at)))


def claim(db: Session, node_id: str) -> DatasetMeasure | None:
    """The next one that waits, under a new fence, for this node."""
    one = db.scalar(
        select(DatasetMeasure)
        .where(DatasetMeasure.state == QUEUED)
        .order_by(DatasetMeasure.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if one is None:
        return None
    one.fence += 1
    one.node_id = node_id
    switch(db, one, RUNNING)
    return one


def take(db: Session, node_id: str) -> bool:
    """As `claim`; whether there was one."""
    return claim(db, node_id) is not None


def subject(db: Session, one: DatasetMeasure) -> tuple[DatasetVersion, Model] | None:
    """What is measured, with which model; None once nobody wants to know any more."""
    version = db.scalar(
        select(DatasetVersion)
        .join(DatasetVersion.dataset)
        .options(joinedload(DatasetVersion.dataset))
        .where(
            DatasetVersion.id == one.version_id,
            DatasetVersion.status != FAILED,
            Dataset.deleted_at.is_(None),
        )
    )
    model = db.get(Model, one.model_id)
    if version is None or model is None or model.deleted_at or key(version, model) != one.key:
        return None
    return version, model


def held(db: Session, measure_id: str, fence: int) -> DatasetMeasure | None:
    """The row, locked; None when fenced out."""
    one = db.get(DatasetMeasure, measure_id, with_for_update=True, populate_existing=True)
    return one if one and one.state == RUNNING and one.fence == fence else None


def mark_started(db: Session, measure_id: str, fence: int, pid: int, started: float) -> bool:
    """False when fenced out: stop it."""
    one = held(db, measure_id, fence)
    if one is None:
        return False
    one.pid, one.pid_started, one.touched_at = pid, started, now()
    return True


def note(db: Session, measure_id: str, fence: int, progress: float) -> None:
    if one := held(db, measure_id, fence):
        one.progress, one.touched_at = min(1.0, max(0.0, progress)), now()


def finish(
    db: Session,
    measure_id: str,
    fence: int,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """It is over: with a result, with an error, or with neither, to be tried again."""
    one = held(db, measure_id, fence)
    if one is None:
        return
    if result is not None:
        one.result, one.progress = result, 1.0
        switch(db, one, DONE)
    elif error is None and one.fence < ATTEMPTS:
        switch(db, one, QUEUED)
    else:
        one.error = error or DIED
        switch(db, one, BROKEN)


def again(db: Session, node_id: str) -> None:
    """Whatever ran on the node waits again: the node goes, or is declared dead."""
    for one in active_on(db, node_id):
        if locked := held(db, one.id, one.fence):
            switch(db, locked, QUEUED)


def forget(db: Session, measure_id: str) -> None:
    db.execute(delete(DatasetMeasure).where(DatasetMeasure.id == measure_id))


def tidy(db: Session) -> None:
    """Forget the measures of what was deleted; one that runs is stopped by its node first."""
    gone = (
        select(DatasetVersion.id)
        .join(DatasetVersion.dataset)
        .where((Dataset.deleted_at.is_not(None)) | (DatasetVersion.status == FAILED))
    )
    db.execute(
        delete(DatasetMeasure).where(
            DatasetMeasure.state != RUNNING, DatasetMeasure.version_id.in_(gone)
        )
    )
