"""The sample datasets that every workspace reads: shipped files, registered at each start."""

import tempfile
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import storage
from app.config import settings
from app.datasets import formats
from app.datasets.containers.unpacking import Source
from app.datasets.rows import segments
from app.datasets.states import DRAFT, PUBLISHED, PUBLISHING, VALIDATING, switch
from app.datasets.tables import Dataset, DatasetVersion
from app.datasets.validation import validate
from app.datasets.validation.validate import Cursor
from app.db import now

SAMPLES = Path(__file__).parent / "samples"


def ensure_samples(db: Session, directory: Path = SAMPLES) -> None:
    """Register each JSON or JSONL file of `directory` as a published dataset of the platform.

    A file that is registered already costs a look; one that has changed becomes a new version.
    Raises ValueError for a sample with a bad row.
    """
    db.execute(text("SELECT pg_advisory_xact_lock(hashtext('danlu.samples'))"))
    for path in sorted(directory.glob("*.json*")):
        ensure_sample(db, path)


def ensure_sample(db: Session, path: Path) -> None:
    name = path.stem
    source = Source(path.name, "json", path, path.stat().st_size, spooled=False, mapping=None)
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as packed:
        step = validate.step([source], Cursor(), Path(plain), name, settings.max_row_mb * 2**20)
        if step.issues or not step.done:
            raise ValueError(f"{path.name} is not a sample: {step.issues[:1]}")
        written = segments.pack(segments.lines(Path(plain)), Path(packed))
        digest = ""
        for row in segments.read(Path(packed)):
            digest = formats.fingerprint(digest, row)
        storage.put(Path(packed), written.artefact)
    dataset = db.scalar(
        select(Dataset).where(
            Dataset.workspace_id.is_(None), Dataset.name == name, Dataset.deleted_at.is_(None)
        )
    )
    if dataset is None:
        dataset = Dataset(name=name)
        db.add(dataset)
        db.flush()
    newest = db.scalar(
        select(DatasetVersion)
        .where(DatasetVersion.dataset_id == dataset.id)
        .order_by(DatasetVersion.number.desc())
        .limit(1)
    )
    if newest is not None and newest.content_hash == digest:
        return
    version = DatasetVersion(
        dataset_id=dataset.id,
        number=newest.number + 1 if newest else 1,
        format=step.cursor.first,
        kind=step.cursor.kind,
        file_name=path.name,
        bytes=path.stat().st_size,
        rows=written.rows,
        segments=[{"artefact": written.artefact, "rows": written.rows}],
        content_hash=digest,
        published_at=now(),
    )
    for status in (VALIDATING, DRAFT, PUBLISHING, PUBLISHED):
        switch(db, version, status)
