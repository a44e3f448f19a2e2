"""Judges when an evaluation is made: who they are, and what they will take."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.config import settings as platform
from app.datasets.tables import DatasetVersion
from app.deployments import service as deployments
from app.errors import N_, DomainError, Invalid
from app.evaluations import engines, estimates
from app.evaluations.judging.work import orders
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.scorers.schemas import Asked, Embedding, Judging, Pairwise
from app.evaluations.tables import Evaluation
from app.gateway import metering

REPLY = 120  # tokens of a judge's reply, roughly
LETTERS = {"zh": 1.6, "en": 4.0}  # characters of a token, roughly


def check(db: Session, workspace_id: str, body: EvaluationCreate) -> None:
    """Raises NotFound and Invalid, naming the field: no such judge, or nothing to compare."""
    known = deployments.names(db, workspace_id)
    embedding = {one.name for one in known if one.embeds}
    writing = {one.name for one in known if not one.embeds}
    for at, one in enumerate(body.scorers):
        if not isinstance(one, Asked):
            continue
        try:
            engines.served(db, workspace_id, one.model)
        except DomainError as error:
            error.field = f"scorers.{at}.model"
            raise
        if isinstance(one, Embedding) and one.model in writing:
            raise Invalid(
                N_("%(name)s writes answers and gives no embeddings. Name an embedding model."),
                code="no_embeddings",
                field=f"scorers.{at}.model",
                name=one.model,
            )
        if one.model in embedding and not isinstance(one, Embedding):
            raise Invalid(
                N_("%(name)s gives embeddings and writes no answers, so it cannot judge."),
                code="not_a_judge",
                field=f"scorers.{at}.model",
                name=one.model,
            )
        if isinstance(one, Pairwise) and len(body.candidates) < 2:
            raise Invalid(
                N_("To judge in pairs there must be a second candidate."),
                code="no_pair",
                field=f"scorers.{at}",
            )


def add(
    db: Session,
    workspace_id: str,
    found: dict[str, Any],
    version: DatasetVersion,
    body: EvaluationCreate,
    rows: int,
) -> dict[str, Any]:
    """The estimate with what judges will take: {judge: {calls, tokens, seconds}}, and in its sums."""
    prompt = version.tokens / version.rows if version.tokens and version.rows else estimates.UNKNOWN
    judges = [one for one in body.scorers if isinstance(one, Asked)]
    if not judges:
        return found
    answer = min(estimates.ANSWER, body.settings.max_tokens)
    calls, tokens, seconds = 0, 0.0, 0.0
    for one in judges:
        each, others = orders([one])
        asked = rows * (each * len(body.candidates) + others * (len(body.candidates) - 1))
        ids = estimates.deployments(db, workspace_id, "deployment", one.model, None)
        took, _ = estimates.speed(db, ids)
        reply, question = 0, float(answer)
        if isinstance(one, Judging):
            reply = min(REPLY, one.max_tokens)
            question = len(one.prompt) / LETTERS[one.language] + prompt
        own = took if took is not None else max(reply, 1) / metering.UNKNOWN_SPEED
        calls += asked
        tokens += asked * (question + answer * (2 if others else 1) + reply)
        seconds += asked * own / min(platform.batch_concurrency, max(asked, 1))
        found["measured"] = found["measured"] and took is not None
    found["tokens"] += round(tokens)
    found["seconds"] += round(seconds)
    return found | {
        "judge": {"calls": calls, "tokens": round(tokens), "seconds": round(seconds)},
    }


def expected(one: Evaluation, candidates: int) -> int:
    """How often judges are asked in all."""
    kinds: Sequence[str] = [each["kind"] for each in one.scorers]
    return one.rows * (
        sum(kinds.count(kind) for kind in ("judge", "embedding", "perplexity")) * candidates
        + 2 * kinds.count("pairwise") * (candidates - 1)
    )
