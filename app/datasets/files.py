"""What lies on disk: a room to work in, and segments that several versions may share."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app import storage
from app.datasets.intake.upload import scratch
from app.datasets.rows import facts
from app.datasets.states import FAILED, PUBLISHED
from app.datasets.tables import Dataset, DatasetVersion, DraftAct
from app.queue import transaction


@contextmanager
def room() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    directory = scratch()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def drop(artefact: str, but: str = "") -> None:
    """Delete a segment, unless a version that can be used has it, or a draft may want it back.

    The version `but` does not count: it is about to go.
    """
    with transaction() as db:
        if used(db, artefact, but):
            return
    storage.delete(artefact)
    storage.delete(facts.artefact(artefact))


def used(db: Session, artefact: str, but: str = "") -> bool:
    part = [{"artefact": artefact}]
    alive = (
        DatasetVersion.id != but,
        DatasetVersion.status != FAILED,
        Dataset.purged_at.is_(None),
    )
    by_version = (
        select(DatasetVersion.id)
        .join(DatasetVersion.dataset)
        .where(DatasetVersion.segments.contains(part), *alive)
    )
    by_act = (
        select(DraftAct.id)
        .join(DatasetVersion, DatasetVersion.id == DraftAct.version_id)
        .join(DatasetVersion.dataset)
        .where(
            DatasetVersion.status != PUBLISHED,
            DraftAct.state.in_(("running", "done", "undone")),
            or_(
                DraftAct.segments.contains({"before": part}),
                DraftAct.segments.contains({"after": part}),
                DraftAct.cursor.contains({"made": part}),
            ),
            *alive,
        )
    )
    return any(db.scalar(query.limit(1)) for query in (by_version, by_act))


def of_acts(acts: list[DraftAct]) -> set[str]:
    """The artefacts that acts name: of segments before and after them, and of those half made."""
    named = [
        part["artefact"]
        for act in acts
        for parts in (*(act.segments or {}).values(), act.cursor.get("made", []))
        for part in parts
    ]
    return set(named)
