"""The tokens of rows and those that count, from the child that may read a stranger's template."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app.config import ROOT
from app.datasets.measures import tokens as measured
from app.datasets.measures.service import words_of
from app.errors import Invalid
from app.models.tables import Model

SECONDS = 30.0  # for some rows together
Row = dict[str, Any]


def directory_of(db: Session, model_id: str) -> Path:
    """The files with which a model reads: its own, or its base's where an adapter has none."""
    model = db.get_one(Model, model_id)
    own = words_of(model.artefact)
    if (own / "tokenizer.json").is_file() or model.base_id is None:
        return own
    return words_of(db.get_one(Model, model.base_id).artefact)


def of(directory: Path, rows: Sequence[Row]) -> list[Row]:
    """As `marks.marked` has them; {error} of a row that cannot be put into tokens. Raises Invalid
    where the model's files cannot be read.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app.evaluations.perplexity.marks"],
            cwd=ROOT,
            env=measured.environment(),
            input=orjson.dumps({"model": str(directory), "rows": rows}),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
        found = orjson.loads(done.stdout)
    except (subprocess.SubprocessError, orjson.JSONDecodeError):
        if len(rows) > 1:  # one of them is at fault
            return [one for row in rows for one in of(directory, [row])]
        return [{"error": Invalid(measured.TOO_MUCH, code="tokens_failed").kept()}]
    if isinstance(found, dict):
        said = found["error"]
        raise Invalid(said["message"], code=said["code"], **said["params"])
    return [told(one) for one in found]


def told(one: Row) -> Row:
    if "refused" not in one:
        return one
    refused = Invalid(measured.REFUSALS[one["refused"]], code=one["refused"], reason=one["reason"])
    return {"error": refused.kept()}
