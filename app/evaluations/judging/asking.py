"""Answers on their way to a judge, by the gateway's own path."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.errors import N_, DomainError
from app.evaluations import answers
from app.evaluations.asking import HeldEvaluation
from app.evaluations.judging import keeping, prompts, replies
from app.evaluations.judging.keeping import Judgement
from app.evaluations.prompts import Question, thoughtless
from app.evaluations.scorers.schemas import Embedding, Judge, Judging, Options
from app.evaluations.tables import Candidate
from app.gateway.batches.asking import Asking
from app.gateway.batches.lines import Line

AGAIN_TEMPERATURE = 0.7  # of the second and third try, which else would say the same
UNREADABLE = N_("No verdict could be read from the judge's reply: %(said)s")
REFUSED = (400, 422)  # of vLLM and of transformers, to what they do not know
NO_EMBEDDING = N_("The engine gave no embeddings.")
CUT = N_("The judge's reply was cut off at %(most)s tokens. Allow it more.")


@dataclass(frozen=True)
class Piece:
    """What is judged: an answer, in pairs beside the baseline's. `swapped`: ours stands first."""

    number: int
    question: Question
    ours: str
    theirs: str = ""
    swapped: bool = False

    @property
    def line(self) -> int:
        return 2 * self.number + self.swapped


@dataclass(frozen=True)
class Again:
    line: Line


class PieceAsking(Asking):
    """All that one model has not said of one candidate yet. What it is asked of a piece, and what is
    made of its answer, a class of its own says: `asked`, `answered`.
    """

    endpoint_asked = ""
    scorer: Options

    def __init__(
        self,
        hold: HeldEvaluation,
        scorer: Options,
        candidate: Candidate,
        base_id: str,
        pieces: Iterator[Any],
        *,
        name: str,
        fresh: bool,
    ) -> None:
        self.evaluation, self.scorer = hold.evaluation, scorer
        self.candidate, self.base_id = candidate, base_id
        self.spent: dict[int, tuple[int, int]] = {}  # tokens of tries that led nowhere
        lines = map(self.asked, pieces)
        super().__init__(hold, lines, endpoint=self.endpoint_asked, name=name, fresh=fresh)

    def asked(self, piece: Any) -> Line:
        raise NotImplementedError

    def judgement(self, line: Line) -> Judgement:
        return Judgement(line.number // 2, swapped=bool(line.number % 2))

    def unasked(self, line: Line, error: DomainError) -> Judgement:
        made = self.judgement(line)
        made.prompt_tokens, made.completion_tokens = self.spent.get(line.number, (0, 0))
        made.error = error.kept()
        return made

    def store(self, outcomes: list[Any]) -> None:
        keeping.store(self.evaluation, self.scorer, self.candidate.id, self.base_id, outcomes)
        for one in outcomes:
            self.spent.pop(2 * one.number + one.swapped, None)


class JudgeAsking(PieceAsking):
    """A judge, asked for marks or for the better of two."""

    endpoint_asked = "chat/completions"
    scorer: Judging

    def __init__(self, hold: HeldEvaluation, scorer: Judging, *of: Any, **named: Any) -> None:
        super().__init__(hold, scorer, *of, **named)
        self.dimensions = prompts.dimensions(scorer.dimensions, scorer.language)
        self.scale = scorer.scale if isinstance(scorer, Judge) else 0
        self.forms = self.forms_of(scorer)
        self.form = 0  # the first that the engine does not refuse

    def forms_of(self, scorer: Judging) -> list[dict[str, Any]]:
        """How an engine is asked to hold the model to the form: as vLLM can, as most can, not at all."""
        of = (str(getattr(scorer, "kind", "")), self.dimensions, self.scale, scorer.max_tokens)
        schema = {"name": "verdict", "strict": True, "schema": prompts.schema_of(*of)}
        return [
            {"structured_outputs": {"regex": prompts.regex_of(*of)}},
            {"response_format": {"type": "json_schema", "json_schema": schema}},
            {},
        ]

    def asked(self, piece: Piece) -> Line:
        kind, question = str(getattr(self.scorer, "kind", "")), piece.question
        material = {"question": prompts.asked(question.messages), "reference": question.reference}
        ours, theirs = thoughtless(piece.ours), thoughtless(piece.theirs)
        if kind == "pairwise":
            first, second = (ours, theirs) if piece.swapped else (theirs, ours)
            material |= {"answer_a": first, "answer_b": second}
        else:
            material["answer"] = ours
        text = prompts.filled(
            kind,
            self.scorer.prompt,
            material,
            self.dimensions,
            scale=self.scale,
            language=self.scorer.language,
            salt=f"{self.evaluation.id}/{piece.line}",
        )
        body: dict[str, Any] = {
            "model": self.scorer.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.scorer.max_tokens,
            "temperature": 0.0,
            "seed": 0,
        }
        return Line(piece.line, "", body | self.forms[self.form])

    def answered(self, line: Line, status: int, request_id: str, answer: Any) -> Judgement | Again:  # noqa: ARG002 - a batch's has it
        form = next(at for at, one in enumerate(self.forms) if one.keys() <= line.body.keys())
        if status in REFUSED and self.forms[form]:
            body = {name: of for name, of in line.body.items() if name not in self.forms[form]}
            return Again(replace(line, body=body | self.forms[form + 1]))
        if status not in REFUSED:
            self.form = max(self.form, form)
        got = answers.of_chat(line.number, status, answer)
        before = self.spent.get(line.number, (0, 0))
        spent = before[0] + got.prompt_tokens, before[1] + got.completion_tokens
        made = self.judgement(line)
        made.prompt_tokens, made.completion_tokens = spent
        if got.text is None:
            made.error = got.error
            return made
        try:
            self.read(made, got.text)
        except replies.Nonsense:
            self.spent[line.number] = spent
            if self.again(line):
                warmer = {"temperature": AGAIN_TEMPERATURE, "seed": self.attempts[line.number]}
                return Again(replace(line, body=line.body | warmer))
            made.error = self.unreadable(got.text, got.finish)
        return made

    def read(self, made: Judgement, text: str) -> None:
        """Raises Nonsense."""
        if isinstance(self.scorer, Judge):
            reply = replies.scores(text, self.dimensions, self.scale)
            made.scores = reply.scores
        else:
            reply = replies.winner(text)
            ours = "A" if made.swapped else "B"
            made.winner = reply.winner if reply.winner == "tie" else "theirs"
            made.winner = "ours" if reply.winner == ours else made.winner
        made.reason = reply.reason

    def unreadable(self, text: str, finish: str) -> dict[str, Any]:
        if finish == "length":
            params: dict[str, Any] = {"most": self.scorer.max_tokens}
            return {"code": "judge_cut_off", "message": CUT, "params": params}
        params = {"said": text[:300]}
        return {"code": "judge_unreadable", "message": UNREADABLE, "params": params}

    def finish(self, outcome: Any) -> None:
        if isinstance(outcome, Again):
            self.ahead.append(outcome.line)
        else:
            super().finish(outcome)


class EmbeddingAsking(PieceAsking):
    """The embeddings of an answer and its reference."""

    endpoint_asked = "embeddings"
    scorer: Embedding

    def asked(self, piece: Piece) -> Line:
        texts = [thoughtless(piece.ours), piece.question.reference]
        body = {"model": self.scorer.model, "input": texts, "encoding_format": "float"}
        return Line(piece.line, "", body)

    def answered(self, line: Line, status: int, request_id: str, answer: Any) -> Judgement:  # noqa: ARG002 - a batch's has it
        made = self.judgement(line)
        if not 200 <= status < 300:
            made.error = answers.of_chat(line.number, status, answer).error
            return made
        try:
            data = sorted(answer["data"], key=lambda one: one["index"])
            made.scores = {"cosine": cosine(*(one["embedding"] for one in data))}
            made.prompt_tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError):
            made.error = {"code": "no_embedding", "message": NO_EMBEDDING, "params": {}}
        return made


def cosine(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the angle between two vectors (d,), (d,); 0 where one has no direction. Raises ValueError."""
    one, other = (np.asarray(each, dtype=np.float64) for each in (ours, theirs))
    if one.ndim != 1 or one.shape != other.shape or not np.isfinite([one, other]).all():
        raise ValueError("not two vectors")
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0
