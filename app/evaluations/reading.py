"""The rows of an evaluation, from the version that it pins."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.datasets.rows import browse
from app.datasets.splits import prompt_mark
from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict, Invalid
from app.evaluations import prompts
from app.evaluations.answers import Outcome, storable
from app.evaluations.prompts import Question, question
from app.evaluations.schemas import Settings
from app.evaluations.scorers.labels import label_of
from app.evaluations.scorers.schemas import Label, Options
from app.evaluations.tables import Evaluation, EvaluationRow
from app.queue import transaction

STORED = 1000  # rows in one statement
MOST_LABELS = 50
LONGEST_LABEL = 100
FIELDS = ("chosen", "rejected", "last")  # of a row itself: answers that it has
TOO_MANY_LABELS = N_(
    "The references of this dataset are no labels: there are more than %(most)s different ones, or "
    "long ones. Name the labels, or choose another scorer."
)


def rows(
    version: DatasetVersion,
    settings: Settings,
    but: set[int] = frozenset(),  # type: ignore[assignment]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows that are asked, each with its number; without those of `but`. Raises NotFound."""
    chosen = prompts.numbers(version.rows, settings.limit, settings.seed)
    wanted = [number for number in chosen if number not in but]
    for number, line in browse.some(version, wanted):
        yield number, orjson.loads(line)


def questions(
    version: DatasetVersion,
    settings: Settings,
    but: set[int] = frozenset(),  # type: ignore[assignment]
) -> Iterator[tuple[int, Question]]:
    for number, row in rows(version, settings, but):
        yield number, question(row, settings.system)


# -- labels ------------------------------------------------------------------------------


def settled(
    version: DatasetVersion, settings: Settings, scorers: Sequence[Options]
) -> Sequence[Options]:
    """The scorers, those of labels with the labels that the references say. Raises Invalid."""
    of_labels = [one for one in scorers if isinstance(one, Label)]
    if not of_labels:
        return scorers
    given = {tuple(sorted(set(one.labels))) for one in of_labels if one.labels}
    if len(given) > 1:
        raise Invalid(N_("All scorers of labels must have the same labels."), field="scorers")
    found = list(given.pop()) if given else found_labels(version, settings)
    for one in of_labels:
        one.labels = found
    return scorers


def found_labels(version: DatasetVersion, settings: Settings) -> list[str]:
    labels: set[str] = set()
    for _, asked in questions(version, settings):
        text = asked.reference.strip()
        if text:
            labels.add(text)
        if len(labels) > MOST_LABELS or len(text) > LONGEST_LABEL:
            raise Invalid(TOO_MANY_LABELS, code="no_labels", field="scorers", most=MOST_LABELS)
    if not labels:
        raise Invalid(
            N_("The rows of this dataset have no answers to compare with."), field="dataset"
        )
    return sorted(labels)


# -- what rows are -----------------------------------------------------------------------


def prepare(
    evaluation: Evaluation, version: DatasetVersion, settings: Settings, scorers: Sequence[Options]
) -> None:
    """Write down what each row is, once."""
    query = select(func.count()).where(EvaluationRow.evaluation_id == evaluation.id)
    with transaction() as db:
        if db.scalar(query) == evaluation.rows:
            return
    labels = next((one.labels for one in scorers if isinstance(one, Label)), [])
    found = (
        {
            "evaluation_id": evaluation.id,
            "number": number,
            "label": label_of(asked.reference, labels) if labels else "",
            "length": asked.length,
            "source": prompts.source(version.files, number),
        }
        for number, asked in questions(version, settings)
    )
    while some := list(islice(found, STORED)):
        with transaction() as db:
            db.execute(insert(EvaluationRow).on_conflict_do_nothing(), some)


# -- answers that are there already ------------------------------------------------------


def answered(
    version: DatasetVersion,
    settings: Settings,
    target: str,
    other: DatasetVersion | None,
    but: set[int],
) -> Iterator[tuple[Outcome, str]]:
    """What the rows' own field says, or what `other` answers to the same prompts, each with its
    reference. Raises Conflict where nothing fits.
    """
    said = by_prompt(other) if other is not None else {}
    found = 0
    for number, row in rows(version, settings, but):
        reference = question(row, settings.system).reference
        text = said.get(prompt_mark(row)) if other is not None else own(row, target)
        if text is None:
            missing = {
                "code": "no_answer",
                "message": N_("There is no answer to this row."),
                "params": {},
            }
            yield Outcome(number, None, error=missing), reference
        else:
            found += 1
            yield Outcome(number, storable(text), finish="stop"), reference
    if not found and not but:
        raise Conflict(N_("None of the rows has an answer there."), code="no_answers")


def own(row: dict[str, Any], name: str) -> str | None:
    if name == "last":
        messages = row["messages"]
        message = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    else:
        message = row.get(name)
    return prompts.said(message) if message else None


def by_prompt(version: DatasetVersion) -> dict[int, str]:
    """The answers of a version by what they answer; the first of several."""
    found: dict[int, str] = {}
    for line in browse.lines(version):
        row = orjson.loads(line)
        if "messages" in row:
            found.setdefault(prompt_mark(row), question(row).reference)
    return found
