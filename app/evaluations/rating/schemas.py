"""What the API of rating rounds takes and gives."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.evaluations.schemas import NAME

MOST_ROWS = 500
Kind = Literal["marks", "pairs"]


class RatingCreate(BaseModel):
    """Answers of an evaluation for people to rate: each from 1 to 5 (`marks`), or each beside the
    baseline's (`pairs`).
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field("", max_length=NAME)
    kind: Kind = "marks"
    rows: int = Field(20, ge=1, le=MOST_ROWS, description="So many, drawn by `seed`.")
    seed: int = Field(0, ge=0, le=2**31 - 1)


class RatingIn(BaseModel):
    """`value` from 1 to 5; of pairs 1: the first answer is better, 2: a tie, 3: the second is."""

    model_config = ConfigDict(extra="forbid")

    value: int = Field(ge=1, le=5)


class RaterOut(BaseModel):
    """How far somebody is."""

    user_id: str
    name: str
    done: int


class RatingRoundOut(BaseModel):
    """A rating round. Whose answers got what is told once it is closed."""

    id: str
    evaluation_id: str
    name: str
    kind: Kind
    state: Literal["open", "closed"]
    rows: int
    items: int = Field(description="That each rater is shown.")
    raters: list[RaterOut]
    results: dict[str, Any] = Field(
        description="Once closed: candidates and verdicts by candidate, agreement {alpha, raters, "
        "items}, and agreement with each automatic scorer."
    )
    created_at: datetime
    closed_at: datetime | None


class RatingRounds(BaseModel):
    """Rating rounds, the newest first."""

    data: list[RatingRoundOut]
    has_more: bool


class ItemOut(BaseModel):
    """What a rater is shown: one answer, or two. Nothing says whose they are."""

    at: int = Field(description="Its place in the rater's own order, from 0.")
    items: int
    done: int = Field(description="That this rater has rated.")
    messages: list[dict[str, Any]]
    reference: str
    answers: list[str]
    value: int | None = Field(description="What the rater said of it before.")
