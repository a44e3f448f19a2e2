"""Whose perplexity can be had: of models here, on a vLLM without room for adapters."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.deployments import aliases, plans
from app.deployments import service as deployments
from app.errors import N_, DomainError, Invalid
from app.evaluations.schemas import CandidateIn, EvaluationCreate
from app.evaluations.scorers.schemas import Perplexity
from app.models.tables import Model

REFUSALS = {
    "endpoint": N_(
        "Perplexity cannot be had of a model elsewhere: its tokens are not known here. Leave this "
        "candidate or the scorer out."
    ),
    "answers": N_(
        "Perplexity cannot be had of answers computed elsewhere: only a model can say how likely a "
        "text is. Leave this candidate or the scorer out."
    ),
    "deployment": N_(
        "The engines of %(name)s cannot say how likely given tokens are: they have room for "
        "adapters, or are not vLLM. Choose the model itself: an engine that can is started for it."
    ),
}


def check(db: Session, workspace_id: str, body: EvaluationCreate) -> None:
    """Raises Invalid, naming the candidate of which it cannot be had."""
    if not any(isinstance(one, Perplexity) for one in body.scorers):
        return
    for at, one in enumerate(body.candidates):
        try:
            check_one(db, workspace_id, one)
        except DomainError as error:
            error.field = f"candidates.{at}.target"
            raise


def check_one(db: Session, workspace_id: str, one: CandidateIn) -> None:
    if one.kind in ("endpoint", "answers"):
        raise Invalid(REFUSALS[one.kind], code="no_perplexity")
    if one.kind == "deployment":
        names = [name for name, _ in aliases.split(db, workspace_id, one.target)] or [one.target]
        if not any(able(db, workspace_id, name) for name in names):
            raise Invalid(REFUSALS["deployment"], code="no_perplexity", name=one.target)
    else:
        plans.choose_engine(db, "vllm")


def able(db: Session, workspace_id: str, name: str) -> bool:
    """Can the engines of this deployment say how likely given tokens are?"""
    found = deployments.route(db, workspace_id, name)
    if found is None or found.adapts or found.embeds:
        return False
    return all(one.engine == "vllm" for one in found.replicas)


def wanted(scorers: Sequence[Mapping[str, Any]]) -> bool:
    return any(one["kind"] == "perplexity" for one in scorers)


def wishes(model: Model) -> dict[str, Any]:
    """What an engine that is started for it must be; an adapter is merged into its base first."""
    merged = {"mode": "merged"} if model.kind == "adapter" else {}
    return {"engine": "vllm", "adapters": 0, "own_engine": True} | merged
