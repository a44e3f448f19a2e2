"""What `/api/v1/evaluations` takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.errors import N_, Invalid
from app.evaluations.scorers.schemas import Scorer
from app.evaluations.states import State
from app.evaluations.tables import Candidate, Evaluation

MOST_ROWS = 20_000
MOST_CANDIDATES = 8
NAME = 120  # characters
Target = Annotated[str, Field(min_length=1, max_length=500)]


class Settings(BaseModel):
    """How models are asked. All candidates are asked the same."""

    model_config = ConfigDict(extra="forbid")

    system: str | None = Field(
        None, max_length=20_000, description="In the place of each row's own; empty: none at all."
    )
    max_tokens: int = Field(512, ge=1, le=32_768)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    limit: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="So many rows, drawn by `seed`; left out: all."
    )


class CandidateIn(BaseModel):
    """Who answers: a `deployment` or alias by its name at /v1, a `model` of the registry or a
    `checkpoint` (job_…/checkpoint-40), for which an engine is started; or `answers` computed
    elsewhere, as a published dataset that says them to the same prompts, or the field `chosen`,
    `rejected` or `last` of the rows themselves. An `endpoint` is any OpenAI-compatible one: the rows
    leave this platform.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    kind: Literal["deployment", "model", "checkpoint", "endpoint", "answers"]
    target: Target = Field(description="Its name or id; an endpoint's address, up to /v1.")
    model: str = Field("", max_length=200, description="Endpoint: the model's name there.")
    secret: str = Field(
        "",
        max_length=40,
        description="Endpoint: the id of a secret of kind openai, if it needs one.",
    )
    per_minute: int | None = Field(
        None, ge=1, le=100_000, description="Endpoint: requests at most; left out: as it lets us."
    )
    label: str = Field("", max_length=80, description="What it is called in the results.")


class EvaluationCreate(BaseModel):
    """Rows of `dataset`, answered by each of `candidates` (the first is the baseline) and scored
    by `scorers` (the first decides the verdict).
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field("", max_length=NAME)
    dataset: str = Field(
        min_length=1, max_length=200, description="A dataset's id (its newest), or a version's."
    )
    candidates: list[CandidateIn] = Field(min_length=1, max_length=MOST_CANDIDATES)
    scorers: list[Scorer] = Field(min_length=1, max_length=20)
    settings: Settings = Field(default_factory=lambda: Settings.model_validate({}))

    @field_validator("scorers")
    @classmethod
    def apart(cls, scorers: list[Any]) -> list[Any]:
        keys = [one.key for one in scorers]
        if double := next((key for key in keys if keys.count(key) > 1), None):
            raise Invalid(
                N_("Two scorers are called %(key)s. Give one of them a key of its own."),
                code="same_key",
                field="scorers",
                key=double,
            )
        return scorers


class CandidateOut(BaseModel):
    """Who answers, how far that is, and its figures. `error` is a sentence with a code."""

    id: str
    position: int = Field(description="0 is the baseline.")
    kind: str
    target: str
    label: str
    model_id: str | None
    state: str
    error: dict[str, Any] | None
    done: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    figures: dict[str, Any] = Field(
        description="By scorer: value, low, high, rows; bins of the rows' scores as [low, high, rows]."
    )

    @classmethod
    def of(cls, one: Candidate, error: dict[str, Any] | None) -> "CandidateOut":
        fields = {name: getattr(one, name) for name in cls.model_fields if name != "error"}
        return cls(**fields, error=error)


class EvaluationOut(BaseModel):
    """An evaluation with its candidates, and the verdicts on them."""

    id: str
    name: str
    dataset_version_id: str
    scorers: list[dict[str, Any]]
    settings: dict[str, Any]
    rows: int
    state: State
    waits: str = Field(description="Why nothing goes on just now; empty if it does.")
    error: dict[str, Any] | None
    estimate: dict[str, Any] | None
    candidates: list[CandidateOut]
    judging: dict[str, Any] = Field(
        description="Of judges: done, failed, prompt_tokens, completion_tokens; errors by scorer."
    )
    verdicts: dict[str, Any] = Field(
        description="By candidate and scorer: verdict (better, worse, same, few), difference to "
        "the baseline, and low and high, between which it lies with 95 % certainty."
    )
    job_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(
        cls,
        one: Evaluation,
        candidates: list[CandidateOut],
        waits: str,
        error: dict[str, Any] | None,
    ) -> "EvaluationOut":
        own = {"candidates", "waits", "error", "judging"}
        fields = {name: getattr(one, name) for name in cls.model_fields if name not in own}
        judging = {name: of for name, of in one.judging.items() if name != "begun"}
        return cls(**fields, candidates=candidates, waits=waits, error=error, judging=judging)


class Evaluations(BaseModel):
    """Evaluations, the newest first."""

    data: list[EvaluationOut]
    has_more: bool


class JudgementOut(BaseModel):
    """What a judge said of an answer."""

    scorer: str
    swapped: bool = Field(description="Of a pair: this answer stood first.")
    scores: dict[str, Any] = Field(description="By dimension, as they were given.")
    winner: str = Field(description="Of a pair: ours, theirs or tie; else empty.")
    reason: str
    error: dict[str, Any] | None = Field(description="Why nothing could be made of its reply.")


class AnswerOut(BaseModel):
    """What a candidate answered to a row, and what scorers gave for it."""

    candidate: str
    text: str | None
    error: dict[str, Any] | None
    finish: str
    scores: dict[str, Any]
    said: dict[str, Any] = Field(
        description="By scorer: the label that the answer named; of pairs win, tie, split or loss."
    )
    judgements: list[JudgementOut]


class RowOut(BaseModel):
    """A row of the dataset with every candidate's answer."""

    number: int = Field(description="In the dataset version, from 0.")
    messages: list[dict[str, Any]]
    reference: str
    label: str
    gap: float | None = Field(description="To the baseline, by the scorer that sorts.")
    answers: list[AnswerOut]


class Rows(BaseModel):
    """Rows, in the order that was asked for."""

    data: list[RowOut]
    has_more: bool


class Standing(BaseModel):
    """A candidate's figure by the first scorer, as its newest evaluation of the set has it."""

    evaluation_id: str
    candidate_id: str
    label: str
    model_id: str | None
    value: float
    low: float
    high: float
    rows: int
    at: datetime


class Standings(BaseModel):
    """The leaderboard of an evaluation set: the same rows, settings and scorers."""

    data: list[Standing] = Field(description="The best first.")
    history: list[Standing] = Field(description="Of the same line of models, the oldest first.")


class DatasetFrom(BaseModel):
    """Rows by their numbers in the dataset version, from 0."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(min_length=1, max_length=2000)


class RowsTaken(BaseModel):
    """The draft that rows were put into."""

    id: str
    version: str
    rows: int
