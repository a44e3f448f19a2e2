"""An answer and its scores, as they are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db import now
from app.errors import N_, DomainError
from app.evaluations.prompts import said, thoughtless
from app.evaluations.scorers import scoring
from app.evaluations.scorers.schemas import Asked, Options, Perplexity

LONGEST = 200_000  # characters that are kept of an answer
NO_CHOICE = N_("The engine gave no answer.")


@dataclass
class Outcome:
    """What came of one row. `text` is None where there is no answer, and `error` says why; where no
    scorer looks at answers there is neither.
    """

    number: int
    text: str | None
    error: dict[str, Any] | None = None
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


def of_chat(number: int, status: int, answer: Any) -> Outcome:
    """An engine's answer, or what it said instead."""
    if not 200 <= status < 300:
        told = answer.get("error") if isinstance(answer, dict) else None
        message = told.get("message") if isinstance(told, dict) else str(answer)[:500]
        code = told.get("code") if isinstance(told, dict) else None
        return failed(number, str(message), str(code or status))
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        return Outcome(
            number,
            storable(said(choice["message"])),
            finish=str(choice.get("finish_reason") or ""),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return failed(number, NO_CHOICE, "no_answer")


def refused(number: int, error: DomainError) -> Outcome:
    return Outcome(number, None, error=error.kept())


def failed(number: int, message: str, code: str) -> Outcome:
    return Outcome(
        number, None, error={"code": code, "message": message[:1000] or code, "params": {}}
    )


def storable(text: str) -> str:
    """As Postgres takes it: without NUL, and not without end."""
    return text.replace("\0", "\ufffd")[:LONGEST]


def score(outcome: Outcome, reference: str, scorers: Sequence[Options]) -> None:
    """Fill in what each scorer says of the answer."""
    if outcome.text is None:
        return
    text = thoughtless(outcome.text)
    for scorer in scorers:
        if isinstance(scorer, Asked | Perplexity):  # later, by whoever is asked
            continue
        found = scoring.score(scorer, text, reference)
        if found.value is not None:
            outcome.scores[scorer.key] = found.value
        if found.parts is not None:
            outcome.parts[scorer.key] = found.parts
        if found.said is not None:
            outcome.said[scorer.key] = found.said


def row(candidate_id: str, one: Outcome) -> Mapping[str, Any]:
    return {"candidate_id": candidate_id, "at": now(), **vars(one)}
