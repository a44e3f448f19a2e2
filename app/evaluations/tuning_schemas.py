"""What the API says of the evaluations of jobs, and of promotions."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.evaluations.schemas import EvaluationOut
from app.evaluations.tables import Promotion
from app.jobs.evaluating import SERVED, Needs


class PromotionCreate(BaseModel):
    """Let a candidate serve as `name`, if it is better than what serves there now. That must be one
    of the other candidates, unless nothing serves there.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    candidate: str = Field(max_length=40, description="Its id. It must be a model of the registry.")
    name: str = Field(min_length=1, max_length=60, pattern=SERVED, description="At /v1.")
    needs: Needs = "better"


class PromotionOut(BaseModel):
    """`waiting` for its evaluation, `starting` an engine, or ended: promoted, refused, failed."""

    id: str
    evaluation_id: str
    candidate_id: str
    rival_id: str | None = Field(description="The candidate that stands for what served there.")
    name: str
    needs: Needs
    state: Literal["waiting", "starting", "promoted", "refused", "failed"]
    verdict: dict[str, Any] | None = Field(description="By the first scorer, beside `rival_id`.")
    message: str = Field(description="How it ended; empty before that.")
    deployment_id: str | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, one: Promotion, message: str) -> "PromotionOut":
        fields = {name: getattr(one, name) for name in cls.model_fields if name != "message"}
        return cls(**fields, message=message)


class Promotions(BaseModel):
    """Of an evaluation, the newest first."""

    data: list[PromotionOut]
    has_more: bool = False


class EvaluationOfJob(BaseModel):
    """`best` is the id of the candidate with the best figure among the result and the checkpoints.
    Everything is null where the job asked for no evaluation, or is not over.
    """

    evaluation: EvaluationOut | None
    best: str | None
    promotion: PromotionOut | None
