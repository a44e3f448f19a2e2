"""A dataset and a model with real files, and the node that measures one with the other."""

import time
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import storage
from app.accounts.tables import Workspace
from app.config import ROOT, settings
from app.datasets.intake.upload import scratch
from app.datasets.rows import segments
from app.datasets.tables import DatasetMeasure, DatasetVersion
from app.models.tables import Model
from app.queue import transaction
from tests import factories
from workers import measures

STARTER = ROOT / "workers" / "starter" / "model"


def starter(db: Session, template: str = "") -> Model:
    """The starter model's files, with a chat template of one's own where it is given."""
    directory = scratch()
    for path in STARTER.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    if template:
        (directory / "chat_template.jinja").write_text(template)
    model = factories.make_model(db, artefact=f"models/words-{next(factories.numbers)}")
    storage.move(directory, model.artefact)
    return model


def dataset(
    db: Session, workspace: Workspace | None, rows: list[dict[str, Any]], **columns: Any
) -> DatasetVersion:
    directory = scratch()
    numbered = [{"id": f"dv_x.{at}"} | row for at, row in enumerate(rows)]
    written = segments.write(numbered, directory)
    storage.move(directory, written.artefact)
    part = {"artefact": written.artefact, "rows": len(rows)}
    size = len(orjson.dumps(rows))
    version = factories.make_dataset(
        db, workspace, rows=len(rows), bytes=size, segments=[part], **columns
    )
    db.commit()
    return version


def be_the_node(seconds: float = 90) -> None:
    """Until nothing waits to be measured."""
    deadline = time.monotonic() + seconds
    while True:
        measures.tick(settings.node)
        with transaction() as db:
            if (
                not db.query(DatasetMeasure)
                .filter(DatasetMeasure.state.in_(["queued", "running"]))
                .count()
            ):
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)
