"""The rows of an evaluation on their way to one candidate, by the gateway's own path."""

from collections.abc import Iterator
from typing import Any, Protocol

from app.errors import DomainError
from app.evaluations import answers, holding, prompts
from app.evaluations.answers import Outcome
from app.evaluations.prompts import Question
from app.evaluations.schemas import Settings
from app.evaluations.scorers.schemas import Options
from app.evaluations.tables import Candidate, Evaluation
from app.gateway.batches.asking import Asking, Held
from app.gateway.batches.lines import Line


class HeldEvaluation(Held, Protocol):
    evaluation: Evaluation
    settings: Settings
    scorers: list[Options]


class RowAsking(Asking):
    """All rows that a candidate has not answered. What came is scored as it is stored."""

    def __init__(
        self,
        hold: HeldEvaluation,
        candidate: Candidate,
        name: str,
        questions: Iterator[tuple[int, Question]],
    ) -> None:
        self.evaluation, self.scorers = hold.evaluation, hold.scorers
        self.candidate = candidate
        self.references: dict[int, str] = {}  # of rows on their way
        super().__init__(
            hold,
            self.lines(questions, name, hold.settings),
            endpoint="chat/completions",
            name=name,
            fresh=candidate.done == 0,
        )

    def lines(
        self, questions: Iterator[tuple[int, Question]], name: str, settings: Settings
    ) -> Iterator[Line]:
        for number, question in questions:
            self.references[number] = question.reference
            yield Line(number, "", prompts.body(name, question, settings))

    def answered(self, line: Line, status: int, request_id: str, answer: Any) -> Outcome:  # noqa: ARG002 - a batch's has it
        return answers.of_chat(line.number, status, answer)

    def unasked(self, line: Line, error: DomainError) -> Outcome:
        return answers.refused(line.number, error)

    def store(self, outcomes: list[Any]) -> None:
        for one in outcomes:
            reference = self.references.get(one.number)
            if reference is not None and not one.scores:  # not yet, where the database was away
                answers.score(one, reference, self.scorers)
        holding.store(self.evaluation.id, self.evaluation.fence, self.candidate.id, outcomes)
        for one in outcomes:
            self.references.pop(one.number, None)
