"""What the matrix needs to know of evaluations, benchmarks and batches."""

from typing import Any

from sqlalchemy.orm import Session

from app.accounts.tables import User, Workspace
from app.evaluations.tables import Candidate, Evaluation, EvaluationAnswer, RatingRound
from tests import factories as make

NEW = {
    "dataset": "{dataset_id}",
    "candidates": [{"kind": "answers", "target": "last"}],
    "scorers": [{"kind": "exact"}],
}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/batches": {"input_file_id": "{batch_file_id}", "endpoint": "/v1/completions"},
    "POST /api/v1/benchmarks": {"model": "{model_id}", "tasks": ["mmlu"]},
    "POST /api/v1/evaluations": NEW,
    "POST /api/v1/evaluations/preview": NEW,
    "POST /api/v1/evaluations/endpoint": {"target": "http://127.0.0.1:9/v1", "model": "x"},
    "POST /api/v1/evaluations/overlaps": {"dataset": "{dataset_id}"},
    "POST /api/v1/evaluations/{evaluation_id}/dataset": {"rows": [0]},
    "PUT /api/v1/ratings/{round_id}/items/{at}": {"value": 1},
    "POST /api/v1/evaluations/{evaluation_id}/promotions": {
        "candidate": "{candidate_id}",
        "name": "better",
    },
}


def ids(
    db: Session, workspace: Workspace, owner: User, version_id: str, model_id: str
) -> dict[str, str]:
    """Of an evaluation that is over."""
    made = make.added(
        db,
        Evaluation(
            workspace_id=workspace.id,
            created_by=owner.id,
            name="x",
            dataset_version_id=version_id,
            scorers=[{"kind": "exact", "key": "exact"}],
            scorer_set="x",
            settings={"system": None},
            rows=1,
            state="succeeded",
        ),
    )
    candidate = make.added(
        db,
        Candidate(
            evaluation_id=made.id,
            position=0,
            kind="model",
            target=model_id,
            label="x",
            model_id=model_id,
        ),
    )
    make.added(db, EvaluationAnswer(candidate_id=candidate.id, number=0, text="x", error=None))
    rated = make.added(
        db,
        RatingRound(
            workspace_id=workspace.id,
            evaluation_id=made.id,
            created_by=owner.id,
            name="x",
            kind="marks",
            numbers=[0],
        ),
    )
    rating = {"round_id": rated.id, "at": "0"}
    return {"evaluation_id": made.id, "candidate_id": candidate.id, **rating}
