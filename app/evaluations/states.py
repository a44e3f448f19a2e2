"""The states of an evaluation, and the one function that moves between them."""

from typing import Literal

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.db import now
from app.errors import N_, Conflict
from app.evaluations.tables import Evaluation, EvaluationEvent

State = Literal[
    "queued", "running", "pausing", "paused", "cancelling", "cancelled", "failed", "succeeded"
]
MOVES: dict[str, set[str]] = {
    "queued": {"running", "paused", "cancelled", "failed"},
    "running": {"pausing", "cancelling", "succeeded", "failed"},
    "pausing": {"paused", "cancelling", "failed"},
    "paused": {"queued", "cancelled"},
    "cancelling": {"cancelled"},
    "cancelled": set(),
    "failed": set(),
    "succeeded": set(),
}
OPEN = ("queued", "running", "pausing", "cancelling")  # somebody has something to do
FINAL = tuple(state for state, moves in MOVES.items() if not moves)
MESSAGES = {
    "queued": N_("Waits to be taken up."),
    "running": N_("Begun."),
    "pausing": N_("Asked to pause: what is being answered is finished first."),
    "paused": N_("Paused. What was answered is kept."),
    "cancelling": N_("Asked to stop for good."),
    "cancelled": N_("Cancelled."),
    "failed": N_("Failed."),
    "succeeded": N_("Finished."),
}


def switch(db: Session, evaluation: Evaluation, state: str) -> None:
    """Move it, whose row the caller has locked, and write the event. Raises Conflict.

    A final state lets go of the dataset version.
    """
    old = evaluation.state
    if state not in MOVES[old]:
        raise Conflict(
            N_("An evaluation that is %(old)s cannot become %(new)s."), old=old, new=state
        )
    evaluation.state = state
    if state == "running" and evaluation.started_at is None:
        evaluation.started_at = now()
    if state not in OPEN:
        evaluation.waits, evaluation.beat_at = None, None
    if state in FINAL:
        evaluation.finished_at = now()
        datasets.unpin(db, evaluation.dataset_version_id, "evaluation", evaluation.id)
    note(db, evaluation.id, "state", MESSAGES[state], {"old": old, "new": state})


def note(
    db: Session, evaluation_id: str, kind: str, message: str, params: dict[str, object]
) -> None:
    """An event. `message` is a msgid."""
    db.add(EvaluationEvent(evaluation_id=evaluation_id, kind=kind, message=message, params=params))
    db.flush()
