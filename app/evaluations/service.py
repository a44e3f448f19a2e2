"""Evaluations: start, look, pause, resume, cancel. What works on them is `runner`."""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import delete as remove_rows
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.datasets import service as datasets
from app.datasets.tables import Dataset, DatasetVersion
from app.db import new_id
from app.errors import N_, Conflict, DomainError, Invalid, NotFound, TooMany
from app.evaluations import engines, estimates, outside, prompts, reading
from app.evaluations.judging import choosing as judges
from app.evaluations.perplexity import choosing as perplexity
from app.evaluations.schemas import MOST_ROWS, NAME, CandidateIn, EvaluationCreate
from app.evaluations.states import FINAL, MESSAGES, OPEN, note, switch
from app.evaluations.tables import (
    Candidate,
    Evaluation,
    EvaluationAnswer,
    EvaluationEvent,
    EvaluationJudgement,
    EvaluationRow,
    Promotion,
    Rating,
    RatingRound,
)
from app.queue import transaction

MOST_OPEN = 20  # of one workspace
OVER = N_("This evaluation is over (%(state)s), so there is nothing to do.")
Chosen = tuple[CandidateIn, str, str, str | None]  # with its target, label and model


# -- starting ----------------------------------------------------------------------------


def create(who: Principal, body: EvaluationCreate) -> Evaluation:
    """Queue it. Raises NotFound, Conflict and Invalid, with the field that is wrong.

    References are read for their labels in between, with no session open.
    """
    with transaction() as db:
        version, _ = asked_of(db, who, body)
        choose(db, who.workspace_id, body.candidates)
        judges.check(db, who.workspace_id, body)
        perplexity.check(db, who.workspace_id, body)
    settled = reading.settled(version, body.settings, body.scorers)
    with transaction() as db:
        return enqueue(db, who, body.model_copy(update={"scorers": settled}))


def enqueue(
    db: Session, who: Principal, body: EvaluationCreate, job_id: str | None = None
) -> Evaluation:
    """Queue what has all its labels. Raises as `create`."""
    version, rows = asked_of(db, who, body)
    chosen = choose(db, who.workspace_id, body.candidates)
    made = Evaluation(
        id=new_id("ev"),
        workspace_id=who.workspace_id,
        created_by=who.user_id,
        api_key_id=who.api_key_id,
        name=body.name or version.dataset.name[:NAME],
        dataset_version_id=version.id,
        scorers=[one.model_dump(by_alias=True) for one in body.scorers],
        settings=body.settings.model_dump(),
        rows=rows,
        state="queued",
        job_id=job_id,
    )
    made.scorer_set = set_of(made)
    made.estimate = estimate_of(db, who.workspace_id, version, body, rows, chosen)
    add(db, made, chosen)
    return made


def check_prompts(version: DatasetVersion) -> None:
    """Raises Invalid if its rows ask nothing. `.dataset` is loaded."""
    if version.kind not in prompts.KINDS:
        raise Invalid(
            N_("The rows of “%(name)s” ask nothing: an evaluation needs prompts with answers."),
            code="no_prompts",
            field="dataset",
            name=version.dataset.name,
        )


def asked_of(db: Session, who: Principal, body: EvaluationCreate) -> tuple[DatasetVersion, int]:
    """The version, and how many of its rows are asked."""
    outside.check(db, who, body.candidates)
    try:
        version = datasets.published(db, who.workspace_id, body.dataset)
        version = datasets.version(db, who.workspace_id, version.dataset_id, version.id)
    except DomainError as error:
        error.field = "dataset"
        raise
    check_prompts(version)
    rows = min(version.rows, body.settings.limit or version.rows)
    if rows > MOST_ROWS:
        raise Invalid(
            N_("At most %(most)s rows can be evaluated. Choose how many are to be drawn."),
            code="too_many_rows",
            field="settings.limit",
            most=MOST_ROWS,
        )
    here = select(func.count()).where(
        Evaluation.workspace_id == who.workspace_id, Evaluation.state.in_(OPEN)
    )
    if (db.scalar(here) or 0) >= MOST_OPEN:
        raise TooMany(
            N_("%(most)s evaluations of this workspace are not finished yet. Wait for one."),
            code="too_many_evaluations",
            retry_after=60,
            most=MOST_OPEN,
        )
    return version, rows


def choose(db: Session, workspace_id: str, wanted: Sequence[CandidateIn]) -> list[Chosen]:
    """What each candidate is. Raises NotFound and Conflict, naming the field."""
    found: list[Chosen] = []
    for at, one in enumerate(wanted):
        try:
            if one.kind == "answers":
                target, label, model_id = answers_of(db, workspace_id, one.target)
            elif one.kind == "endpoint":
                target, label, model_id = outside.choose(one)
            else:
                target, label, model_id = engines.choose(db, workspace_id, one.kind, one.target)
        except DomainError as error:
            error.field = f"candidates.{at}.target"
            raise
        found.append((one, target, one.label or label, model_id))
    return found


def answers_of(db: Session, workspace_id: str, target: str) -> tuple[str, str, None]:
    if target in reading.FIELDS:
        return target, f"answers:{target}", None
    version = datasets.published(db, workspace_id, target)
    return version.id, version.dataset.name, None


def estimate_of(
    db: Session,
    workspace_id: str,
    version: DatasetVersion,
    body: EvaluationCreate,
    rows: int,
    chosen: Sequence[Chosen],
) -> dict[str, Any]:
    candidates = [(one.kind, target, model_id) for one, target, _, model_id in chosen]
    found = estimates.estimate(db, workspace_id, version, body, rows, candidates)
    return judges.add(db, workspace_id, found, version, body, rows)


def preview(db: Session, who: Principal, body: EvaluationCreate) -> dict[str, Any]:
    """The estimate of what is not started yet. Raises as `create`."""
    version, rows = asked_of(db, who, body)
    chosen = choose(db, who.workspace_id, body.candidates)
    judges.check(db, who.workspace_id, body)
    perplexity.check(db, who.workspace_id, body)
    return estimate_of(db, who.workspace_id, version, body, rows, chosen)


def add(db: Session, made: Evaluation, chosen: Sequence[Chosen]) -> None:
    db.add(made)
    db.flush()
    for position, (one, target, label, model_id) in enumerate(chosen):
        db.add(
            Candidate(
                evaluation_id=made.id,
                position=position,
                kind=one.kind,
                target=target,
                label=label[:80],
                model_id=model_id,
                served_name=one.model,
                secret_id=one.secret or None,
                per_minute=one.per_minute,
            )
        )
    datasets.pin(db, made.dataset_version_id, "evaluation", made.id)
    note(db, made.id, "state", MESSAGES["queued"], {"old": "", "new": "queued"})


def set_of(one: Evaluation) -> str:
    """What two evaluations must have in common to stand on one leaderboard."""
    rows = {"limit": one.settings["limit"], "seed": one.settings["seed"]}
    said = orjson.dumps(
        [
            one.dataset_version_id,
            one.scorers,
            rows if rows["limit"] else None,
            one.settings["system"],
        ],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.blake2b(said, digest_size=10).hexdigest()


# -- looking -----------------------------------------------------------------------------


def get(db: Session, workspace_id: str, evaluation_id: str, *, lock: bool = False) -> Evaluation:
    """Raises NotFound, also for another workspace's."""
    found = db.get(Evaluation, evaluation_id, with_for_update=lock, populate_existing=lock)
    if found is None or found.workspace_id != workspace_id:
        raise NotFound(N_("There is no such evaluation."))
    return found


def list_evaluations(
    db: Session,
    workspace_id: str,
    *,
    state: str = "",
    model_id: str = "",
    q: str = "",
    after: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[Evaluation], bool]:
    """Newest first, and whether there are more. `model_id`: those that it answers in."""
    query = here = select(Evaluation).where(Evaluation.workspace_id == workspace_id)
    if state:
        query = query.where(Evaluation.state == state)
    if q:
        query = query.where(Evaluation.name.icontains(q, autoescape=True))
    if model_id:
        query = query.where(
            Evaluation.id.in_(
                select(Candidate.evaluation_id).where(
                    or_(Candidate.model_id == model_id, Candidate.target == model_id)
                )
            )
        )
    query = paging.behind(db, query, here, [Evaluation.created_at.desc()], Evaluation.id, after)
    found = list(db.scalars(query.offset(offset).limit(limit + 1)))
    return found[:limit], len(found) > limit


def candidates(db: Session, ids: Sequence[str]) -> dict[str, list[Candidate]]:
    """Of each evaluation, the baseline first."""
    found: dict[str, list[Candidate]] = {one: [] for one in ids}
    query = select(Candidate).where(Candidate.evaluation_id.in_(ids))
    for one in db.scalars(query.order_by(Candidate.position)):
        found[one.evaluation_id].append(one)
    return found


def dataset_of(db: Session, one: Evaluation) -> tuple[DatasetVersion, Dataset]:
    version = db.get_one(DatasetVersion, one.dataset_version_id)
    return version, db.get_one(Dataset, version.dataset_id)


def events(db: Session, evaluation_id: str) -> list[EvaluationEvent]:
    """Newest first."""
    query = select(EvaluationEvent).where(EvaluationEvent.evaluation_id == evaluation_id)
    return list(db.scalars(query.order_by(EvaluationEvent.id.desc()).limit(200)))


# -- stopping and going on ---------------------------------------------------------------


def cancel(db: Session, workspace_id: str, evaluation_id: str) -> Evaluation:
    """Stop for good; what was answered by now is kept and scored. Twice is once."""
    one = get(db, workspace_id, evaluation_id, lock=True)
    if one.state in ("cancelling", "cancelled"):
        return one
    if one.state in FINAL:
        raise Conflict(OVER, code="over", state=one.state)
    switch(db, one, "cancelled" if one.state in ("queued", "paused") else "cancelling")
    return one


def pause(db: Session, workspace_id: str, evaluation_id: str) -> Evaluation:
    """Stop for now; engines that were started for it go. Twice is once."""
    one = get(db, workspace_id, evaluation_id, lock=True)
    if one.state in ("pausing", "paused"):
        return one
    if one.state not in ("queued", "running"):
        raise Conflict(OVER, code="over", state=one.state)
    switch(db, one, "paused" if one.state == "queued" else "pausing")
    return one


def resume(db: Session, workspace_id: str, evaluation_id: str) -> Evaluation:
    """Go on with what has no answer yet."""
    one = get(db, workspace_id, evaluation_id, lock=True)
    if one.state == "paused":
        switch(db, one, "queued")
    elif one.state not in ("queued", "running"):
        raise Conflict(
            N_("This evaluation is %(state)s, so it cannot go on."), code="over", state=one.state
        )
    return one


def delete(db: Session, workspace_id: str, evaluation_id: str) -> None:
    """With its answers and scores. Raises Conflict while it runs."""
    one = get(db, workspace_id, evaluation_id, lock=True)
    if one.state not in FINAL:
        raise Conflict(N_("Cancel the evaluation before you delete it."), code="not_over")
    ids = select(Candidate.id).where(Candidate.evaluation_id == one.id)
    rounds = select(RatingRound.id).where(RatingRound.evaluation_id == one.id)
    db.execute(remove_rows(Rating).where(Rating.round_id.in_(rounds)))
    db.execute(remove_rows(RatingRound).where(RatingRound.evaluation_id == one.id))
    for answers in (EvaluationJudgement, EvaluationAnswer):
        db.execute(remove_rows(answers).where(answers.candidate_id.in_(ids)))
    for table in (Promotion, Candidate, EvaluationRow, EvaluationEvent):
        db.execute(remove_rows(table).where(table.evaluation_id == one.id))
    db.delete(one)
