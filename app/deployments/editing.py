"""What a person changes of a deployment: its settings, its size, its schedule, or back again."""

from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.cluster import service as cluster
from app.deployments import fitting, revisions, rolling, schedules, service
from app.deployments.checks import check_money, check_quota
from app.deployments.fitting import Fit
from app.deployments.plans import Plan, plan
from app.deployments.revisions import Settings
from app.deployments.states import ACTIVE, note, replicas_of
from app.deployments.tables import Deployment
from app.deployments.wanted import SWEEP, advance, lock
from app.errors import N_, Conflict
from app.jobs import priorities
from app.queue import send


def edit(db: Session, who: Principal, deployment_id: str, changes: dict[str, Any]) -> Deployment:
    """A new revision with these settings changed; none if nothing changes. What runs goes over to
    it, and back when it does not start; what is stopped stays so.

    Raises NotFound, and Invalid for what cannot be.
    """
    deployment = own(db, who.workspace_id, deployment_id)
    return turn_to(db, who, deployment, replace(revisions.current(deployment), **changes))


def rollback(db: Session, who: Principal, deployment_id: str, number: int) -> Deployment:
    """The settings of an earlier revision again, as a new one. While that one is still being
    replaced, the change is called off.
    """
    deployment = own(db, who.workspace_id, deployment_id)
    revision = revisions.get(db, deployment, number)
    if number == deployment.previous:
        rolling.go_back(db, deployment)
        advance(db, deployment)
        send(db, SWEEP)
        return deployment
    if number == deployment.revision:
        raise Conflict(N_("Revision %(number)s is what runs already."), number=number)
    return turn_to(db, who, deployment, revisions.stored(revision), restores=number)


def fix(
    db: Session,
    who: Principal,
    deployment_id: str,
    changes: dict[str, Any],
    number: int | None = None,
) -> Deployment:
    """Change what an error of revision `number` asked for, and start again. Of the engine's
    arguments, those that are not named stay.
    """
    deployment = own(db, who.workspace_id, deployment_id)
    settings = revisions.settings_of(db, deployment, number or deployment.revision)
    arguments = settings.arguments | changes.get("arguments", {})
    turn_to(db, who, deployment, replace(settings, **(changes | {"arguments": arguments})))
    return service.start(db, who.workspace_id, deployment_id)


def scale(db: Session, workspace_id: str, deployment_id: str, replicas: int) -> Deployment:
    """More replicas, or fewer: those too many finish what they answer and stop."""
    deployment = own(db, workspace_id, deployment_id)
    if replicas == deployment.replicas:
        return deployment
    if replicas > deployment.replicas:
        check_quota(db, workspace_id, replicas * deployment.devices)
        check_money(db, workspace_id, deployment.created_by)
    message = N_("From %(before)s to %(after)s replicas.")
    note(db, deployment, "scale", message, {"before": deployment.replicas, "after": replicas})
    deployment.replicas = replicas
    db.flush()
    advance(db, deployment, refuse=True)
    send(db, SWEEP)
    return deployment


def prioritise(db: Session, who: Principal, deployment_id: str, priority: str) -> Deployment:
    """How urgent its replicas are, those that wait already too, and the merge that they wait for.

    Raises NotFound, Forbidden, Conflict.
    """
    deployment = own(db, who.workspace_id, deployment_id)
    number = priorities.check(db, who, priority)
    if number == deployment.priority:
        return deployment
    old, deployment.priority = priorities.PRIORITIES[deployment.priority], number
    for replica in replicas_of(db, deployment.id):
        cluster.prioritise(db, "replica", replica.id, number)
    if deployment.merge_job_id:
        priorities.hurry(db, deployment.merge_job_id, number)
    told = {"old": old, "new": priority}
    note(db, deployment, "priority", priorities.NOW[priority], told)
    send(db, SWEEP)
    return deployment


def schedule(
    db: Session,
    workspace_id: str,
    deployment_id: str,
    wanted: tuple[str, list[dict[str, str]]] | None,
) -> Deployment:
    """`wanted` is (time zone, windows of {up, down}); None ends the schedule."""
    deployment = lock(db, service.get(db, workspace_id, deployment_id).id)
    schedules.put(db, deployment, schedules.check(*wanted) if wanted else None)
    return deployment


def own(db: Session, workspace_id: str, deployment_id: str) -> Deployment:
    """The locked deployment, if it has engines of its own. Raises NotFound and Conflict."""
    deployment = lock(db, service.get(db, workspace_id, deployment_id).id)
    if deployment.host_id:
        raise Conflict(
            N_(
                "The engines of another deployment carry %(name)s: it has no settings of its own. "
                "Change that deployment, or deploy the adapter with an engine of its own."
            ),
            code="carried",
            name=deployment.name,
        )
    return deployment


# -- revisions ---------------------------------------------------------------------------


def planned(db: Session, deployment: Deployment, settings: Settings) -> Plan:
    """How the deployment's model would be served with these settings. Raises Invalid."""
    return plan(
        db,
        deployment.workspace_id,
        deployment.model_id,
        mode=None if deployment.mode == "base" else deployment.mode,
        adapters=deployment.adapters,
        own_engine=True,
        **settings.wishes(),
    )


def turn_to(
    db: Session,
    who: Principal,
    deployment: Deployment,
    settings: Settings,
    restores: int | None = None,
) -> Deployment:
    found = planned(db, deployment, settings)
    if found.settings.wishes() == revisions.current(deployment).wishes():
        return deployment
    if settings.devices > deployment.devices:
        check_quota(db, who.workspace_id, deployment.replicas * settings.devices)
    if refusal := fitting.fit(db, who.workspace_id, found).refusal:
        raise refusal
    old = deployment.revision
    before = revisions.find(db, deployment, old)
    proven = before is not None and before.ready_at is not None and not deployment.error
    if deployment.previous is None and proven and deployment.desired == "running":
        deployment.previous = old
    revision = revisions.add(db, deployment, found.settings, who.user_id, restores)
    deployment.error = None
    note(
        db,
        deployment,
        "revision",
        N_("Revision %(revision)s takes the settings of revision %(restores)s again.")
        if restores
        else N_("Revision %(revision)s: its settings were changed."),
        {"revision": revision.number, "restores": restores},
    )
    advance(db, deployment, refuse=True)
    send(db, SWEEP)
    return deployment


def gap(db: Session, deployment: Deployment, found: Plan) -> tuple[Fit, bool]:
    """Whether the new settings fit, and whether the deployment would not answer for a while: a
    single replica for whose successor there is no room beside it.
    """
    beside = fitting.fit(db, deployment.workspace_id, found)
    if beside.when != fitting.LATER or deployment.replicas > 1:
        return beside, False
    own = [one.id for one in replicas_of(db, deployment.id) if one.state in ACTIVE]
    instead = fitting.fit(db, deployment.workspace_id, found, own=own)
    return (instead, True) if own and instead.when == fitting.NOW else (beside, False)
