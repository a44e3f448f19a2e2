"""Evaluations at the end of tuning jobs: begun by the sweep, one for each job.

A job says beforehand what is to be asked (`app.jobs.evaluating`). While it runs, the checkpoints
that it names are made models, before newer ones take their place. Once it has succeeded, what it
started from is compared with its result, with those checkpoints, and with what serves under the
name that it is to have.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, principal_of
from app.cluster import service as cluster
from app.deployments import service as deployments
from app.deployments.tables import Deployment
from app.errors import N_, DomainError
from app.evaluations import reading, service
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.scorers.scoring import LOWER_IS_BETTER
from app.evaluations.tables import Candidate, Evaluation, Promotion
from app.jobs import service as jobs
from app.jobs import starts
from app.jobs.states import FINAL, note
from app.jobs.tables import Job, JobCheckpoint
from app.models import service as models
from app.queue import transaction

AT_ONCE = 50  # jobs that are looked at in one step
BEGUN = N_("Its evaluation has begun: %(name)s.")
NOT_BEGUN = N_("The model was not evaluated, though the job asked for it.")
NO_CHECKPOINT = N_("There is no checkpoint of step %(step)s to evaluate.")


# -- while a job runs --------------------------------------------------------------------


def keep(db: Session) -> None:
    """Have the checkpoints that are to be evaluated made models, so that none is cleared away."""
    query = select(Job.id).where(Job.evaluation.is_not(None), ~Job.evaluated)
    query = query.where(Job.evaluation["checkpoints"] != [], Job.state.not_in(FINAL))
    ids = list(db.scalars(query.limit(AT_ONCE)))
    if not ids:
        return
    cluster.lock(db)  # before rows of checkpoints
    rows = (
        select(JobCheckpoint)
        .where(JobCheckpoint.job_id.in_(ids), JobCheckpoint.state == "kept")
        .with_for_update()
    )
    for row in db.scalars(rows):
        job = db.get_one(Job, row.job_id)
        if row.step in (job.evaluation or {})["checkpoints"] and row.step != job.total:
            try:
                starts.publish(db, job, row, job.created_by)
            except DomainError as error:  # its node cannot be reached just now
                row.error = error.kept()


# -- at its end --------------------------------------------------------------------------


def begin_due(_: Session) -> None:
    """Of every job that is over and asked for it. In transactions of its own."""
    with transaction() as db:
        query = select(Job.id).where(Job.evaluation.is_not(None), ~Job.evaluated)
        ids = list(db.scalars(query.where(Job.state.in_(FINAL)).limit(AT_ONCE)))
    for job_id in ids:
        begin(job_id)


def begin(job_id: str) -> None:
    """Begin the job's evaluation, exactly once: the row says whether that is done. Where it cannot
    be, the job's events say why.
    """
    try:
        with transaction() as db:
            job = db.get_one(Job, job_id)
            if job.state != "succeeded" or job.result_model_id is None:
                body = None
            else:
                who = principal_of(db, job.workspace_id, job.created_by)
                body = asked(db, job)
                version, _ = service.asked_of(db, who, body)
        if body:
            settled = reading.settled(version, body.settings, body.scorers)
            body = body.model_copy(update={"scorers": settled})
        with transaction() as db:
            job = db.get_one(Job, job_id, with_for_update=True, populate_existing=True)
            if not job.evaluated:
                job.evaluated = True
                if body:
                    enqueue(db, who, job, body)
    except DomainError as error:
        if error.status == 429:  # others are not finished yet: the next sweep tries again
            return
        with transaction() as db:
            refused(db, job_id, error)


def asked(db: Session, job: Job) -> EvaluationCreate:
    """The evaluation that the job asked for. The baseline is what it started from."""
    wanted: dict[str, Any] = job.evaluation or {}
    before = models.get(db, job.workspace_id, job.model_id)
    candidates = [{"kind": "model", "target": before.id}]
    gate = wanted.get("gate")
    rival = serving(db, job.workspace_id, gate["name"]) if gate else None
    if gate and rival not in (None, before.id):
        # what serves may have room for adapters, and then says no perplexity
        surprised = "perplexity" in wanted["scorers"]
        who = ("model", rival) if surprised else ("deployment", gate["name"])
        label = f"/v1 · {gate['name']}"
        candidates.append({"kind": who[0], "target": who[1], "label": label})
    there = standing(db, job)
    candidates += [{"kind": "checkpoint", "target": starts.name_of(row)} for row in there]
    candidates.append({"kind": "model", "target": str(job.result_model_id)})
    return EvaluationCreate.model_validate(
        {
            "name": job.name,
            "dataset": wanted["dataset"],
            "candidates": candidates,
            "scorers": [{"kind": kind} for kind in wanted["scorers"]],
            "settings": {"limit": wanted["limit"], "max_tokens": wanted["max_tokens"]},
        }
    )


def serving(db: Session, workspace_id: str, name: str) -> str | None:
    """The model that most requests to a name at /v1 go to now; None if none answers there."""
    found = next((one for one in deployments.names(db, workspace_id) if one.name == name), None)
    return db.get_one(Deployment, found.deployment_id).model_id if found else None


def standing(db: Session, job: Job) -> list[JobCheckpoint]:
    """The checkpoints to evaluate that there are, without the last, which is the result."""
    wanted = [step for step in (job.evaluation or {})["checkpoints"] if step != job.step]
    query = select(JobCheckpoint).where(
        JobCheckpoint.job_id == job.id, JobCheckpoint.step.in_(wanted)
    )
    return list(db.scalars(query.order_by(JobCheckpoint.step)))


def enqueue(db: Session, who: Principal, job: Job, body: EvaluationCreate) -> None:
    made = service.enqueue(db, who, body, job.id)
    note(db, job, "evaluation", BEGUN, {"name": made.name, "evaluation": made.id})
    wanted: dict[str, Any] = job.evaluation or {}
    there = {row.step for row in standing(db, job)}
    for step in wanted["checkpoints"]:
        if step not in there and step != job.step:
            note(db, job, "warning", NO_CHECKPOINT, {"step": step})
    if gate := wanted.get("gate"):
        candidates = service.candidates(db, [made.id])[made.id]
        rival = rival_of(db, made, candidates, gate["name"])
        db.add(
            Promotion(
                workspace_id=made.workspace_id,
                created_by=made.created_by,
                evaluation_id=made.id,
                candidate_id=candidates[-1].id,
                rival_id=rival.id if rival else None,
                name=gate["name"],
                needs=gate["needs"],
            )
        )
        db.flush()


def rival_of(
    db: Session, one: Evaluation, candidates: list[Candidate], name: str
) -> Candidate | None:
    """Who of the candidates is what serves under a name now; None if nobody is."""
    model_id = serving(db, one.workspace_id, name)
    for each in candidates:
        if model_id and each.model_id == model_id:
            return each
    return None


def refused(db: Session, job_id: str, error: DomainError) -> None:
    job = db.get_one(Job, job_id, with_for_update=True, populate_existing=True)
    if not job.evaluated:
        job.evaluated = True
        note(db, job, "warning", NOT_BEGUN, {})
        note(db, job, "warning", error.message, error.params)


# -- what came of it ---------------------------------------------------------------------


def of_job(db: Session, workspace_id: str, job_id: str) -> dict[str, Any]:
    """{job, evaluation, candidates, best, promotion} of a job. Raises NotFound.

    `best` is the candidate with the best figure of the first scorer among the result and the
    checkpoints; the result where another is no better.
    """
    job = jobs.get(db, workspace_id, job_id)
    one = db.scalar(select(Evaluation).where(Evaluation.job_id == job.id))
    found: dict[str, Any] = {"job": job, "evaluation": one, "best": None, "promotion": None}
    if one is None:
        return found | {"candidates": []}
    candidates = service.candidates(db, [one.id])[one.id]
    newest = select(Promotion).where(Promotion.evaluation_id == one.id)
    return found | {
        "candidates": candidates,
        "best": best(one, candidates),
        "promotion": db.scalar(newest.order_by(Promotion.created_at).limit(1)),
    }


def best(one: Evaluation, candidates: list[Candidate]) -> Candidate | None:
    key, kind = one.scorers[0]["key"], one.scorers[0]["kind"]
    sign = 1 if kind in LOWER_IS_BETTER else -1
    made = [each for each in candidates if each.kind == "checkpoint"] + candidates[-1:]
    scored = [each for each in made if (each.figures.get(key) or {}).get("value") is not None]
    return min(
        reversed(scored), key=lambda each: sign * float(each.figures[key]["value"]), default=None
    )
