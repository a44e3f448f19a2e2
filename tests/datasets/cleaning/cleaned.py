"""Versions to be cleaned."""

import shutil
from typing import Any

from sqlalchemy.orm import Session

from app import storage
from app.datasets.intake import upload
from app.datasets.rows import segments
from tests.factories import make_dataset


def rows(count: int) -> list[dict[str, Any]]:
    """Every tenth repeats the first, every seventh has an address, every eleventh is short."""
    made = []
    for at in range(count):
        text = "the first of them all" if at % 10 == 0 else f"row number {at} says this"
        text = f"{text}, a{at}@example.com" if at % 7 == 1 else text
        made.append({"id": f"dv_old.{at}", "text": "short" if at % 11 == 5 else text})
    return made


def version_of(db: Session, workspace: Any, made: list[dict[str, Any]], **more: Any) -> Any:
    directory = upload.scratch()
    written = segments.write(made, directory)
    storage.put(directory, written.artefact)
    shutil.rmtree(directory)
    values = {"rows": len(made), "kind": "pretrain", "format": "text"}
    values["segments"] = [{"artefact": written.artefact, "rows": len(made)}]
    one = make_dataset(db, workspace, **values | more)
    db.commit()
    return one
