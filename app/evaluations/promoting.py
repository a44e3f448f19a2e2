"""Promotions: a candidate serves under a name at `/v1`, if it is better than what serves there.

The name becomes an alias that leads to a deployment of the candidate's model; what served before
stays behind it with weight 0, to go back to. Whatever is killed, the row says how far it is.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal, principal_of
from app.db import now
from app.deployments import aliases
from app.deployments import service as deployments
from app.deployments.aliases_schemas import AliasPut, Target
from app.deployments.results import names
from app.deployments.schemas import DeploymentCreate
from app.deployments.tables import Alias, Deployment
from app.errors import N_, Conflict, DomainError
from app.evaluations import figures, service, states, tuning
from app.evaluations.rows import candidate_of
from app.evaluations.tables import Candidate, Evaluation, Promotion
from app.jobs.states import note
from app.jobs.tables import Job
from app.queue import transaction

AT_ONCE = 50
PASSES = {"better": ("better",), "not_worse": ("better", "same")}
REFUSALS = {
    "same": N_(
        "Not deployed as %(name)s: no difference to what serves there is certain "
        "(%(difference)s, with 95 %% certainty from %(low)s to %(high)s)."
    ),
    "worse": N_(
        "Not deployed as %(name)s: it is worse than what serves there "
        "(%(difference)s, with 95 %% certainty from %(low)s to %(high)s)."
    ),
    "few": N_("Not deployed as %(name)s: too few rows were answered by both to say."),
}
BETTER = N_(
    "Serves as %(name)s now: it is better than what served there "
    "(%(difference)s, with 95 %% certainty from %(low)s to %(high)s)."
)
NOT_WORSE = N_(
    "Serves as %(name)s now: no difference to what served there is certain "
    "(%(difference)s, with 95 %% certainty from %(low)s to %(high)s)."
)
FIRST = N_("Serves as %(name)s now: nothing served there before.")
UNCOMPARED = N_(
    "Not deployed as %(name)s: what serves there now was not compared with it. Evaluate both again."
)
UNFINISHED = N_("Not deployed as %(name)s: the evaluation did not come to its end.")
NO_SCORE = N_("Not deployed as %(name)s: there are no scores of it.")


# -- what a person does ------------------------------------------------------------------


def promote(
    db: Session, who: Principal, evaluation_id: str, candidate_id: str, name: str, needs: str
) -> Promotion:
    """Let a candidate serve as `name`. Raises Conflict with the verdict where it is not better than
    what serves there now, or that was not compared.
    """
    one = service.get(db, who.workspace_id, evaluation_id)
    candidates = service.candidates(db, [one.id])[one.id]
    chosen = candidate_of(candidates, candidate_id)
    if one.state != "succeeded":
        raise Conflict(N_("The evaluation is not finished."), code="not_over")
    if chosen.model_id is None:
        raise Conflict(
            N_("%(name)s is no model of the registry: nothing can be deployed of it."),
            code="no_model",
            name=chosen.label,
        )
    rival = tuning.rival_of(db, one, candidates, name)
    made = Promotion(
        workspace_id=one.workspace_id,
        created_by=who.user_id,
        evaluation_id=one.id,
        candidate_id=chosen.id,
        rival_id=rival.id if rival else None,
        name=name,
        needs=needs,
    )
    if refusal := judge(db, made, one):
        raise refusal
    db.add(made)
    db.flush()
    deploy(db, who, made)
    return made


def of(db: Session, evaluation_id: str) -> list[Promotion]:
    """The newest first."""
    query = select(Promotion).where(Promotion.evaluation_id == evaluation_id)
    return list(db.scalars(query.order_by(Promotion.created_at.desc(), Promotion.id)))


# -- the verdict -------------------------------------------------------------------------


def judge(db: Session, one: Promotion, evaluation: Evaluation) -> Conflict | None:
    """By the first scorer, over the rows that both answered; None lets it pass."""
    serves = tuning.serving(db, one.workspace_id, one.name)
    if serves is None:
        return None
    rival = db.get(Candidate, one.rival_id) if one.rival_id else None
    if rival is None or rival.model_id != serves:
        return Conflict(UNCOMPARED, code="not_compared", name=one.name)
    if rival.id == one.candidate_id:
        return Conflict(N_("%(name)s serves this model already."), code="serves", name=one.name)
    key = evaluation.scorers[0]["key"]
    ours = figures.load(db, one.candidate_id, evaluation.scorers)[key]
    theirs = figures.load(db, rival.id, evaluation.scorers)[key]
    if not ours.values:
        return Conflict(NO_SCORE, code="no_scores", name=one.name)
    found = figures.verdict(ours, theirs, figures.facts(db, evaluation.id))
    one.verdict = found.stored()
    if found.verdict in PASSES[one.needs]:
        return None
    return Conflict(
        REFUSALS[found.verdict], code="not_better", name=one.name, **told(one.verdict, evaluation)
    )


def told(verdict: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """Its numbers, as sentences have them."""
    found = {name: verdict[name] for name in ("difference", "low", "high")}
    if evaluation.scorers[0]["kind"] == "perplexity":
        return {name: f"{value:+.2f}" for name, value in found.items()}
    return {
        name: {"message": N_("%(points)s points"), "params": {"points": f"{100 * value:+.1f}"}}
        for name, value in found.items()
    }


# -- going on ----------------------------------------------------------------------------


def go_on(_: Session) -> None:
    """A step of the sweep: all that wait for their evaluation or their engine. In transactions of
    its own.
    """
    with transaction() as db:
        query = select(Promotion.id).where(Promotion.state.in_(("waiting", "starting")))
        ids = list(db.scalars(query.order_by(Promotion.created_at).limit(AT_ONCE)))
    for promotion_id in ids:
        try:
            with transaction() as db:
                step(db, promotion_id)
        except DomainError as error:
            with transaction() as db:
                one = locked(db, promotion_id)
                end(db, one, "failed", error.message, error.params)


def locked(db: Session, promotion_id: str) -> Promotion:
    return db.get_one(Promotion, promotion_id, with_for_update=True, populate_existing=True)


def step(db: Session, promotion_id: str) -> None:
    """As far as it can go now; twice is once."""
    one = locked(db, promotion_id)
    evaluation = db.get_one(Evaluation, one.evaluation_id)
    if one.state == "starting":
        arrive(db, one, evaluation)
    elif one.state == "waiting" and evaluation.state in states.FINAL:
        if evaluation.state != "succeeded":
            end(db, one, "failed", UNFINISHED, {"name": one.name})
        elif refusal := judge(db, one, evaluation):
            end(db, one, "refused", refusal.message, refusal.params)
        else:
            deploy(db, principal_of(db, one.workspace_id, one.created_by), one)


def deploy(db: Session, who: Principal, one: Promotion) -> None:
    """An engine for it: one that serves this very model already, or a new deployment."""
    model_id = str(db.get_one(Candidate, one.candidate_id).model_id)
    passing = select(Candidate.deployment_id).where(Candidate.deployment_id.is_not(None))
    found = db.scalar(
        select(Deployment.id)
        .where(
            Deployment.workspace_id == one.workspace_id,
            Deployment.model_id == model_id,
            Deployment.state == "ready",
            Deployment.deleted_at.is_(None),
            Deployment.id.not_in(passing),  # those go when their evaluation has its answers
        )
        .order_by(Deployment.created_at.desc())
        .limit(1)
    )
    one.deployment_id = found or create(db, who, one.name, model_id).id
    one.state = "starting"
    db.flush()


def create(db: Session, who: Principal, name: str, model_id: str) -> Deployment:
    """Called as it shall be, or with a number behind that where the name is taken."""
    for free in names(name):
        try:
            with db.begin_nested():
                body = DeploymentCreate.model_validate({"name": free, "model": model_id})
                return deployments.create(db, who, body)
        except Conflict as taken:
            if taken.code != "name_taken":
                raise
    raise Conflict(N_("No name like %(name)s is free."), code="name_taken", name=name)


def arrive(db: Session, one: Promotion, evaluation: Evaluation) -> None:
    """Once it answers, the name leads to it."""
    deployment = db.get(Deployment, one.deployment_id)
    if deployment is None or deployment.deleted_at or deployment.state == "error":
        error = (deployment.error if deployment else None) or {}
        message = error.get("message") or N_("The engine did not start.")
        end(db, one, "failed", message, error.get("params") or {})
    elif deployment.state == "ready":
        who = principal_of(db, one.workspace_id, one.created_by)
        lead(db, who, one.name, deployment)
        words = {"name": one.name}
        if one.verdict is None:
            end(db, one, "promoted", FIRST, words)
        else:
            message = BETTER if one.verdict["verdict"] == "better" else NOT_WORSE
            end(db, one, "promoted", message, words | told(one.verdict, evaluation))


def lead(db: Session, who: Principal, name: str, to: Deployment) -> Alias | None:
    """The name leads to the deployment; what it led to stays there, with weight 0."""
    if to.name == name and aliases.find(db, who.workspace_id, name) is None:
        return None
    targets = [Target(deployment=to.id, weight=1), *former(db, who, name, to)]
    return aliases.save(db, who, AliasPut(name=name, targets=targets))


def former(db: Session, who: Principal, name: str, to: Deployment) -> list[Target]:
    alias = aliases.find(db, who.workspace_id, name)
    if alias is not None:
        ids = [target["deployment"] for target in sorted(alias.targets, key=weight, reverse=True)]
        known = aliases.deployments(db, [alias])
        living = [one for one in ids if known[one].deleted_at is None]
    else:
        query = select(Deployment.id).where(
            Deployment.workspace_id == who.workspace_id,
            Deployment.name == name,
            Deployment.deleted_at.is_(None),
        )
        living = list(db.scalars(query))
    return [Target(deployment=one, weight=0) for one in living if one != to.id][:3]


def weight(target: dict[str, Any]) -> int:
    return int(target["weight"])


def end(db: Session, one: Promotion, state: str, message: str, params: dict[str, Any]) -> None:
    """Told on its evaluation, and on the job that asked for it."""
    one.state, one.ended_at = state, now()
    one.message = {"message": message, "params": params}
    evaluation = db.get_one(Evaluation, one.evaluation_id)
    states.note(db, evaluation.id, "promotion", message, params)
    if evaluation.job_id:
        kind = "deployed" if state == "promoted" else "warning"
        note(db, db.get_one(Job, evaluation.job_id), kind, message, params)
