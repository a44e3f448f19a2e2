"""What the API says of evaluated rows that stand in training data."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.evaluations.schemas import MOST_CANDIDATES, MOST_ROWS, CandidateIn

Kind = Literal["row", "prompt", "overlap"]


class OverlapAsk(BaseModel):
    """Which rows of `dataset` stand in the data of `training`, or in what `candidates` were trained
    on here.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    dataset: str = Field(min_length=1, max_length=200, description="A published dataset's id.")
    training: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [], max_length=20, description="Published datasets, by id."
    )
    candidates: list[CandidateIn] = Field([], max_length=MOST_CANDIDATES)
    limit: int | None = Field(None, ge=1, le=MOST_ROWS, description="As in the evaluation.")
    seed: int = Field(0, ge=0, le=2**31 - 1)


class OverlapRow(BaseModel):
    """An evaluated row that training data has: whole, its prompt, or at least half of its runs of
    13 words. Numbers are from 0.
    """

    number: int
    kind: Kind
    share: float = Field(description="Of its runs of 13 words; 1 of whole rows and prompts.")
    text: str
    dataset: str = Field(description="The training data's.")
    version: str
    found_number: int
    found_text: str


class Overlaps(BaseModel):
    """While `complete` is false, ask again: each request looks on for a while."""

    complete: bool
    read: int = Field(description="Training rows that were looked at.")
    total: int
    rows: int = Field(description="That are evaluated.")
    found: int
    kinds: dict[Kind, int]
    partial: bool = Field(description="Too much text to compare the words of all rows.")
    data: list[OverlapRow] = Field(description="The worst first.")
    has_more: bool
