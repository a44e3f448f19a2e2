"""Rankings: all that was ever evaluated on the same rows by the same scorers, and what became of a model."""

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.evaluations.scorers.scoring import LOWER_IS_BETTER
from app.evaluations.tables import Candidate, Evaluation
from app.models.tables import Model

MOST = 200


def leaderboard(db: Session, one: Evaluation) -> list[dict[str, Any]]:
    """Candidates of all evaluations of this set (rows, scorers, system prompt), the best first; of
    one that was evaluated several times, its newest.
    """
    key, kind = one.scorers[0]["key"], one.scorers[0]["kind"]
    query = (
        select(Candidate, Evaluation)
        .join(Evaluation, Evaluation.id == Candidate.evaluation_id)
        .where(
            Evaluation.workspace_id == one.workspace_id,
            Evaluation.scorer_set == one.scorer_set,
            Evaluation.state == "succeeded",
        )
        .order_by(Evaluation.created_at.desc(), Candidate.position)
        .limit(MOST)
    )
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for each, of in db.execute(query):
        figure = each.figures.get(key) or {}
        if figure.get("value") is not None:
            line = entry(each, of, figure)
            found.setdefault((each.kind, each.target), line)
    sign = 1 if kind in LOWER_IS_BETTER else -1
    return sorted(found.values(), key=lambda line: sign * line["value"])


def entry(each: Candidate, of: Evaluation, figure: dict[str, Any]) -> dict[str, Any]:
    return {
        "evaluation_id": of.id,
        "candidate_id": each.id,
        "label": each.label,
        "model_id": each.model_id,
        "value": figure["value"],
        "low": figure["low"],
        "high": figure["high"],
        "rows": figure["rows"],
        "at": of.created_at,
    }


def history(db: Session, workspace_id: str, one: Evaluation) -> list[dict[str, Any]]:
    """Of the line of models that the candidates belong to (the same base): each that was evaluated
    on this set, the oldest first.
    """
    models = select(Candidate.model_id).where(
        Candidate.evaluation_id == one.id, Candidate.model_id.is_not(None)
    )
    bases = set(
        db.scalars(select(Model.base_id).where(Model.id.in_(models), Model.base_id.is_not(None)))
    ) | set(db.scalars(select(Model.id).where(Model.id.in_(models), Model.kind == "base")))
    line = select(Model.id).where(or_(Model.base_id.in_(bases), Model.id.in_(bases)))
    key = one.scorers[0]["key"]
    query = (
        select(Candidate, Evaluation)
        .join(Evaluation, Evaluation.id == Candidate.evaluation_id)
        .where(
            Evaluation.workspace_id == workspace_id,
            Evaluation.scorer_set == one.scorer_set,
            Evaluation.state == "succeeded",
            Candidate.model_id.in_(line),
        )
        .order_by(Evaluation.created_at, Candidate.position)
        .limit(MOST)
    )
    return [
        entry(each, of, figure)
        for each, of in db.execute(query)
        if (figure := each.figures.get(key)) and figure.get("value") is not None
    ]
