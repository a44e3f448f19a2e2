"""JSON: the evaluation at a job's end, and promotions of what was evaluated."""

from typing import Annotated

from fastapi import APIRouter, Request

from app.accounts.auth import Principal, requires
from app.evaluations import promoting, service, tuning, view
from app.evaluations.tables import Promotion
from app.evaluations.tuning_schemas import (
    EvaluationOfJob,
    PromotionCreate,
    PromotionOut,
    Promotions,
)
from app.queue import Db
from app.web import said

router = APIRouter(tags=["evaluations"])
BASE = "/api/v1/evaluations/{evaluation_id}/promotions"
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "deployments:write")]


def out(request: Request, one: Promotion) -> PromotionOut:
    return PromotionOut.of(one, said(request, one.message) if one.message else "")


@router.get("/api/v1/jobs/{job_id}/evaluation", name="api:jobs:evaluation")
def get_evaluation_of_job(request: Request, job_id: str, who: Reader, db: Db) -> EvaluationOfJob:
    """The evaluation that a tuning job asked for, which of its checkpoints is best, and whether the
    result serves.
    """
    found = tuning.of_job(db, who.workspace_id, job_id)
    one, best, promotion = found["evaluation"], found["best"], found["promotion"]
    return EvaluationOfJob(
        evaluation=view.out(request, db, [one])[0] if one else None,
        best=best.id if best else None,
        promotion=out(request, promotion) if promotion else None,
    )


@router.get(BASE, name="api:evaluations:promotions")
def list_promotions(request: Request, evaluation_id: str, who: Reader, db: Db) -> Promotions:
    """Which candidates were to serve, and what became of that."""
    one = service.get(db, who.workspace_id, evaluation_id)
    return Promotions(data=[out(request, each) for each in promoting.of(db, one.id)])


@router.post(BASE, status_code=201, name="api:evaluations:promote")
def create_promotion(
    request: Request, evaluation_id: str, body: PromotionCreate, who: Writer, db: Db
) -> PromotionOut:
    """Let a candidate serve under a name, if the paired bootstrap says that it is better than what
    serves there; else 409 with the verdict.
    """
    made = promoting.promote(db, who, evaluation_id, body.candidate, body.name, body.needs)
    return out(request, made)
