"""What a measure says, in the shapes that pages and the API show."""

from typing import Any

from sqlalchemy.orm import Session

from app.datasets.measures import histograms
from app.datasets.measures import service as measures
from app.datasets.measures.histograms import MAX_LENGTHS, Cut
from app.datasets.tables import DatasetMeasure, DatasetVersion
from app.errors import N_, NotFound
from app.models import service as models
from app.models.tables import Model

DEFAULT_LENGTH = 2048  # tokens: what a tuning job begins with
LONGEST = 1_048_576  # tokens that may be asked for
AUTOMATIC_ROWS = 100_000  # a version up to this size is measured without being asked for
SHOWN_ROWS = 20  # of each list of rows on the page

UNTRAINED = {
    "no_answer": N_("No assistant turn"),
    "unweighted": N_("All answers have the weight 0"),
    "empty": N_("No text"),
    "refused": N_("Refused by the chat template"),
    "unstable": N_("No generation prompt leads to the answer"),
    "no_stop": N_("The answer ends without a special token: training refuses this"),
}


def model_of(db: Session, workspace_id: str, wanted: str) -> Model:
    """The model to measure with: by id or name, else the first base model.

    An adapter reads as its base does. Raises NotFound, also when there is no model at all.
    """
    if wanted:
        model = models.get(db, workspace_id, wanted)
        if model.kind == "adapter" and model.base_id:
            return models.get(db, workspace_id, model.base_id)
        return model
    found = measures.bases(db, workspace_id)
    if not found:
        raise NotFound(
            N_("There is no base model yet. Rows are measured in a model's tokens: add one first."),
            code="no_model",
        )
    return found[0]


def figures(one: DatasetMeasure) -> dict[str, Any]:
    """The result without the packed histograms: plain numbers, and the bins of the chart."""
    result = one.result or {}
    plain = {
        name: value
        for name, value in result.items()
        if name not in ("lengths", "texts", "first", "trained_at")
    }
    return plain | {
        "bins": histograms.bins(histograms.unpack(result["lengths"])),
        "max_lengths": [vars(histograms.cut(result, most)) for most in shown_lengths(result)],
    }


def shown_lengths(result: dict[str, Any]) -> list[int]:
    """The maximum lengths of the table: up to the first at which nothing is cut."""
    longest = result["max"]
    above = next((most for most in MAX_LENGTHS if most >= longest), MAX_LENGTHS[-1])
    return [most for most in MAX_LENGTHS if most <= above]


def cut(one: DatasetMeasure, max_length: int) -> Cut:
    assert one.result
    return histograms.cut(one.result, max_length)


def late_rows(one: DatasetMeasure, max_length: int) -> list[int]:
    """Numbers of rows that are cut before their answer; of very many, the worst."""
    found = (one.result or {}).get("latest", ())
    return [row["row"] for row in found if row["tokens"] >= max_length][:SHOWN_ROWS]


def automatic(version: DatasetVersion) -> bool:
    """Whether looking at the page is enough for it to be measured."""
    return version.rows <= AUTOMATIC_ROWS
