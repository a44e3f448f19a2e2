"""Evaluations: rows of a dataset version, answered by several candidates and scored."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Evaluation(Base):
    """Whoever works on it holds it by `runner`, `beat_at` and `fence`, as with batches."""

    __tablename__ = "evaluations"
    __table_args__ = (
        Index("ix_evaluations_workspace_id_created_at", "workspace_id", "created_at"),
        Index(
            "ix_evaluations_open",
            "created_at",
            postgresql_where=text("state IN ('queued', 'running', 'pausing', 'cancelling')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ev"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))  # None: on a page
    name: Mapped[str]
    dataset_version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    scorers: Mapped[list[dict[str, Any]]]  # scorers.schemas, complete; the first decides
    scorer_set: Mapped[str]  # a hash of the scorers and of which rows: what may be ranked together
    settings: Mapped[dict[str, Any]]  # schemas.Settings: how models are asked
    rows: Mapped[int]  # that are asked
    state: Mapped[str] = mapped_column(default="queued")  # see states.py
    waits: Mapped[dict[str, Any] | None]  # why nothing goes on just now: {message, params}
    error: Mapped[dict[str, Any] | None]  # {code, message, params}
    estimate: Mapped[dict[str, Any] | None]  # see estimates.py
    # candidate → scorer → bootstrap.Compared, of all but the baseline
    verdicts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # of judges: {done, failed, prompt_tokens, completion_tokens, errors: {scorer: why it gave none}}
    judging: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # the tuning job at whose end this stands: one evaluation at most
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    runner: Mapped[str] = mapped_column(default="")  # the process that works on it
    beat_at: Mapped[datetime | None]  # when that was last heard of; None: nobody works on it
    fence: Mapped[int] = mapped_column(default=0)  # one more with each who takes it up


class Candidate(Base):
    """One of those compared. The first (position 0) is the baseline."""

    __tablename__ = "evaluation_candidates"
    __table_args__ = (
        UniqueConstraint("evaluation_id", "position"),
        Index("ix_evaluation_candidates_model_id", "model_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("cand"))
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    position: Mapped[int]
    kind: Mapped[str]  # deployment, model, checkpoint, endpoint, answers
    target: Mapped[str]  # name at /v1, model's id, checkpoint's name, address, dataset version
    label: Mapped[str]  # on pages
    served_name: Mapped[str] = mapped_column(default="")  # as what it is asked
    secret_id: Mapped[str | None]  # of an endpoint: the user's secret that it is asked with
    per_minute: Mapped[int | None]  # of an endpoint: requests at most
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))  # whose answers these are
    # started for this and removed afterwards
    deployment_id: Mapped[str | None] = mapped_column(ForeignKey("deployments.id"))
    state: Mapped[str] = mapped_column(default="waiting")  # starting, asking, done, failed
    error: Mapped[dict[str, Any] | None]
    done: Mapped[int] = mapped_column(default=0)  # rows with an answer
    failed: Mapped[int] = mapped_column(default=0)  # of these, without one that can be scored
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    asking_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
    # scorer → {value, low, high, rows, bins}, and for labels {table, labels}
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)


class EvaluationRow(Base):
    """What a row is, to say where a candidate is better. The row itself stands in its dataset."""

    __tablename__ = "evaluation_rows"

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # in the version, from 0
    label: Mapped[str] = mapped_column(default="")  # where references are labels
    length: Mapped[int]  # characters of the prompt
    source: Mapped[str] = mapped_column(default="")  # the file it came from


class EvaluationAnswer(Base):
    """One candidate's answer to one row. A row with one is not asked again."""

    __tablename__ = "evaluation_answers"

    candidate_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation_candidates.id"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None]  # None: see `error`; where that is None too, it was not asked for
    error: Mapped[dict[str, Any] | None]  # {code, message, params}
    finish: Mapped[str] = mapped_column(default="")  # stop, length …
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)  # scorer → value, 0 to 1 mostly
    parts: Mapped[dict[str, Any]] = mapped_column(default=dict)  # scorer → what sums up
    said: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)  # scorer → the label named
    at: Mapped[Created]


class EvaluationJudgement(Base):
    """What a model that was asked said of one answer. An answer with one is not asked about again."""

    __tablename__ = "evaluation_judgements"

    candidate_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation_candidates.id"), primary_key=True
    )
    scorer: Mapped[str] = mapped_column(primary_key=True)  # its key
    number: Mapped[int] = mapped_column(primary_key=True)  # of the row
    swapped: Mapped[bool] = mapped_column(primary_key=True, default=False)  # stood first of the two
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)  # by dimension, as they were given
    winner: Mapped[str] = mapped_column(default="")  # of a pair: ours, theirs, tie
    reason: Mapped[str] = mapped_column(default="")
    # {code, message, params}: nothing could be made of it
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    at: Mapped[Created]


class EvaluationEvent(Base):
    __tablename__ = "evaluation_events"
    __table_args__ = (Index("ix_evaluation_events_evaluation_id_id", "evaluation_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    at: Mapped[Created]
    kind: Mapped[str]  # state, candidate
    message: Mapped[str]  # msgid
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)


class RatingRound(Base):
    """Answers of an evaluation that people rate, without knowing whose they are."""

    __tablename__ = "rating_rounds"
    __table_args__ = (
        Index("ix_rating_rounds_workspace_id_created_at", "workspace_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("rat"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), index=True)
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    kind: Mapped[str]  # marks: 1 to 5; pairs: better, tie or worse than the baseline
    numbers: Mapped[list[int]] = mapped_column(JSONB)  # rows that are rated
    state: Mapped[str] = mapped_column(default="open")  # closed: nobody rates any more, all is told
    results: Mapped[dict[str, Any]] = mapped_column(default=dict)  # see rating.results
    created_at: Mapped[Created]
    closed_at: Mapped[datetime | None]


class Rating(Base):
    """What one person thinks of one answer."""

    __tablename__ = "ratings"

    round_id: Mapped[str] = mapped_column(ForeignKey("rating_rounds.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    candidate_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation_candidates.id"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)  # of the row
    value: Mapped[int]  # 1 to 5; of pairs 1 for worse, 2 for a tie, 3 for better
    at: Mapped[Created]


class Promotion(Base):
    """A candidate that is to serve under a name, if it is better than what serves there."""

    __tablename__ = "evaluation_promotions"
    __table_args__ = (
        Index("ix_evaluation_promotions_evaluation_id", "evaluation_id"),
        Index(
            "ix_evaluation_promotions_open",
            "created_at",
            postgresql_where=text("state IN ('waiting', 'starting')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("prom"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    candidate_id: Mapped[str] = mapped_column(ForeignKey("evaluation_candidates.id"))
    # who answers for what serves there; None: nothing does
    rival_id: Mapped[str | None] = mapped_column(ForeignKey("evaluation_candidates.id"))
    name: Mapped[str]  # at /v1
    needs: Mapped[str] = mapped_column(default="better")  # or not_worse
    state: Mapped[str] = mapped_column(default="waiting")  # starting, promoted, refused, failed
    verdict: Mapped[dict[str, Any] | None]  # bootstrap.Compared, of the first scorer
    message: Mapped[dict[str, Any] | None]  # how it ended: {message, params}
    deployment_id: Mapped[str | None] = mapped_column(ForeignKey("deployments.id"))
    created_at: Mapped[Created]
    ended_at: Mapped[datetime | None]
