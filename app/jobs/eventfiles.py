"""TensorBoard event files, written from the metrics in the database.

So any job can be looked at in TensorBoard, on whichever machine it runs and while it runs. An
attempt that went on from an earlier one is a run of its own beside it.
"""

import math
import zipfile
from pathlib import Path
from typing import IO

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.jobs.tables import Job, JobMetric
from app.jobs.tfevents import TAGS, opening, scalars

UNSHOWN = ("step", "t")
ROWS = 5000  # read at a time


# -- writing -------------------------------------------------------------------------------


def write(db: Session, job: Job, directory: Path) -> int:
    """Append what is new to the files in `directory`; how many steps that were. One writer at a
    time.
    """
    cursor = directory / "cursor"
    seq = int(cursor.read_text()) if cursor.exists() else 0
    files: dict[int, IO[bytes]] = {}
    count = 0
    query = select(JobMetric.seq, JobMetric.fence, JobMetric.step, JobMetric.data).where(
        JobMetric.job_id == job.id
    )
    try:
        while rows := db.execute(
            query.where(JobMetric.seq > seq).order_by(JobMetric.seq).limit(ROWS)
        ).all():
            for row in rows:
                if row.fence not in files:
                    files[row.fence] = attempt(directory, row.fence)
                values = {
                    TAGS.get(name, name): float(value)
                    for name, value in row.data.items()
                    if name not in UNSHOWN and isinstance(value, int | float)
                }
                at = row.data.get("t")
                when = float(at) if isinstance(at, int | float) else job.created_at.timestamp()
                if math.isfinite(when):
                    files[row.fence].write(scalars(when, row.step, values))
            seq = rows[-1].seq
            count += len(rows)
    finally:
        for file in files.values():
            file.close()
    cursor.write_text(str(seq))
    return count


def attempt(directory: Path, fence: int) -> IO[bytes]:
    """The file of an attempt, open for more."""
    path = directory / "runs" / f"attempt-{fence}" / "events.out.tfevents.0000000000.danlu"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    file = path.open("ab")
    if fresh:
        file.write(opening(0.0))
    return file


# -- to take away --------------------------------------------------------------------------


def archive(db: Session, job: Job, directory: Path) -> Path:
    """A zip of the files that the run itself wrote, else of what the database knows of it."""
    found = directory / "tensorboard.zip"
    if job.tensorboard:
        source = storage.fetch(job.tensorboard)
    else:
        write(db, job, directory)
        source = directory / "runs"
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(source.rglob("*")):
            if path.is_file() and not path.is_symlink():
                packed.write(path, f"{job.id}/{path.relative_to(source)}")
        packed.writestr(f"{job.id}/job.json", orjson.dumps({"id": job.id, "name": job.name}))
    return found
