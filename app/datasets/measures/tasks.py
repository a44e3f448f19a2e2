"""What a node needs to know of a measure that it has claimed."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.datasets.drafts import overlay
from app.datasets.measures import service
from app.datasets.tables import DatasetMeasure, DatasetVersion


@dataclass(frozen=True)
class Task:
    model: str  # artefact
    kind: str
    rows: int
    segments: list[str]  # artefacts


def find(db: Session, measure_id: str) -> Task | None:
    """None once nobody wants to know any more."""
    one = db.get(DatasetMeasure, measure_id)
    found = service.subject(db, one) if one else None
    if found is None:
        return None
    version, model = found
    segments = [str(part["artefact"]) for part in version.segments]
    return Task(model.artefact, version.kind, version.rows, segments)


def edits(db: Session, measure_id: str, start: int) -> list[tuple[int, str, bytes | None]]:
    """A draft's edits from number `start` on, at most `overlay.BATCH`: place, rank, and the row, or
    None where it is deleted. In order.
    """
    one = db.get_one(DatasetMeasure, measure_id)
    over = overlay.of(db.get_one(DatasetVersion, one.version_id))
    part = sorted({*over.edits, *((place, "") for place in over.deleted)})[
        start : start + overlay.BATCH
    ]
    found = overlay.contents([over.edits[key] for key in part if key in over.edits])
    return [(*key, found[over.edits[key]] if key in over.edits else None) for key in part]
