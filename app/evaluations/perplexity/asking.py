"""How likely a candidate holds the reference answers to be: asked of its own engine.

The row goes there as tokens, just as training would read it, and the engine says of each how likely
it is after those before it (`echo` with `logprobs` at /v1/completions, as vLLM has it). Only tokens
that training would learn from count: the last answer and its stop token.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict
from app.evaluations import answers, holding, prompts, reading
from app.evaluations.answers import Outcome
from app.evaluations.asking import HeldEvaluation
from app.evaluations.judging import keeping
from app.evaluations.judging.asking import PieceAsking
from app.evaluations.judging.keeping import Judgement
from app.evaluations.perplexity import tokens
from app.evaluations.prompts import reread
from app.evaluations.scorers.schemas import Perplexity, look_at_answers
from app.evaluations.tables import Candidate
from app.gateway.batches.lines import Line
from app.queue import transaction

STEP = 50  # rows that are put into tokens at a time
UNSAID = N_("The engine did not say how likely the tokens are.")


@dataclass(frozen=True)
class Tokens:
    """Of a row, and those that count, as [first, end)."""

    number: int
    ids: list[int]
    spans: list[tuple[int, int]]


async def measure(hold: HeldEvaluation, one: Candidate, name: str, version: DatasetVersion) -> None:
    """All rows of the candidate, which `name` leads to, that have no perplexity yet: those that it
    has answered, or where no scorer looks at answers all. Raises Lost, Invalid where the model's
    tokens cannot be read, and Conflict if the name leads nowhere.
    """
    for scorer in hold.scorers:
        if not isinstance(scorer, Perplexity) or hold.ended.is_set():
            continue
        chosen = set(prompts.numbers(version.rows, hold.settings.limit, hold.settings.seed))
        rest = {number for number, _ in await run_in_threadpool(keeping.said, one.id, scorer.key)}
        if look_at_answers(hold.scorers):
            rest |= chosen - await run_in_threadpool(keeping.answered, one.id)
        if chosen <= rest:
            continue
        directory = await run_in_threadpool(directory_of, one.id)
        asking = PerplexityAsking(hold, scorer, one, name, version, directory, rest)
        await asking.all()
        if told := asking.refusal:
            raise Conflict(told["message"], code=told["code"], **told["params"])


def directory_of(candidate_id: str) -> Path:
    with transaction() as db:
        return tokens.directory_of(db, str(db.get_one(Candidate, candidate_id).model_id))


class PerplexityAsking(PieceAsking):
    """All rows but some, each by one request."""

    endpoint_asked = "completions"

    def __init__(
        self,
        hold: HeldEvaluation,
        scorer: Perplexity,
        candidate: Candidate,
        name: str,
        version: DatasetVersion,
        directory: Path,
        but: set[int],
    ) -> None:
        self.settings, self.unanswered = hold.settings, not look_at_answers(hold.scorers)
        self.spans: dict[int, list[tuple[int, int]]] = {}  # of rows on their way
        pieces = self.read(reading.rows(version, hold.settings, but), directory)
        super().__init__(hold, scorer, candidate, candidate.id, pieces, name=name, fresh=True)

    def read(self, rows: Iterator[tuple[int, Any]], directory: Path) -> Iterator[Tokens]:
        """What cannot be put into tokens is kept right away."""
        while some := list(islice(rows, STEP)):
            several = [reread(row, self.settings.system) for _, row in some]
            refused = []
            for (number, _), one in zip(some, tokens.of(directory, several), strict=True):
                if "error" in one:
                    refused.append(Judgement(number, error=one["error"]))
                else:
                    yield Tokens(number, one["ids"], [(first, end) for first, end in one["spans"]])
            if refused:
                self.store(refused)

    def asked(self, piece: Tokens) -> Line:
        self.spans[piece.number] = piece.spans
        body = {"model": self.name, "prompt": piece.ids, "echo": True, "logprobs": 0}
        return Line(2 * piece.number, "", body | {"max_tokens": 1, "temperature": 0.0})

    def answered(self, line: Line, status: int, request_id: str, answer: Any) -> Judgement:  # noqa: ARG002 - a batch's has it
        made = self.judgement(line)
        if not 200 <= status < 300:
            made.error = answers.of_chat(line.number, status, answer).error
            return made
        try:
            likely = counted(answer, self.spans[made.number])
            made.scores = {"nll": -sum(likely), "tokens": float(len(likely))}
            made.prompt_tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            made.error = {"code": "no_logprobs", "message": UNSAID, "params": {}}
        return made

    def store(self, outcomes: list[Any]) -> None:
        if self.unanswered:
            rows = [Outcome(one.number, None, prompt_tokens=one.prompt_tokens) for one in outcomes]
            holding.store(self.evaluation.id, self.evaluation.fence, self.candidate.id, rows)
            outcomes = [replace(one, prompt_tokens=0) for one in outcomes]  # counted there
        super().store(outcomes)
        for one in outcomes:
            self.spans.pop(one.number, None)


def counted(answer: Any, spans: list[tuple[int, int]]) -> list[float]:
    """The log-likelihoods of the tokens that count, of an engine's answer. Raises KeyError,
    IndexError, TypeError and ValueError where it does not say them.
    """
    likely = answer["choices"][0]["logprobs"]["token_logprobs"]
    found = [float(likely[at]) for span in spans for at in range(*span)]
    if not all(math.isfinite(one) for one in found):
        raise ValueError("no number")
    return found
