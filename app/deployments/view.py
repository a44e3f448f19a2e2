"""What the pages of deployments show."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import available_timezones

from fastapi import Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.tables import User
from app.cluster.labels import written
from app.config import settings as platform
from app.db import now
from app.deployments import phases, revisions, runners, service
from app.deployments.answers import spoken, trouble
from app.deployments.remedies import remedies
from app.deployments.revisions import current
from app.deployments.samples import own_address, samples
from app.deployments.tables import Deployment, Replica
from app.errors import N_, NotFound
from app.jobs.priorities import PRIORITIES
from app.jobs.waiting import PLACES, Wait, waits_of
from app.models.tables import Model
from app.web import translate

# Why a deployment waits, and what makes it go on.
WAITS = {
    "new": N_("It will be looked at in a few seconds."),
    "quota": N_(
        "It waits for quota: this workspace holds all the devices that it may hold at once. "
        "Stop a deployment or a job, or ask an administrator for more."
    ),
    "devices": N_(
        "It waits for a free device: all of them are held, or kept for others who come before it. "
        "It starts by itself when its turn comes."
    ),
    "memory": N_(
        "It waits for memory: no device has enough of it free. It starts by itself when enough "
        "is given back."
    ),
    "member_quota": N_(
        "It waits for quota: you hold all the devices that you may hold at once in this workspace. "
        "Stop something of yours, or ask an administrator for more."
    ),
    "model_quota": N_(
        "It waits for quota: this workspace holds all the devices of this model that it may hold at "
        "once. Stop a deployment or a job on such a device, or ask an administrator for more."
    ),
    "member_model_quota": N_(
        "It waits for quota: you hold all the devices of this model that you may hold at once in this "
        "workspace. Stop something of yours on such a device, or ask an administrator for more."
    ),
    "preempting": N_(
        "It waits for training of a lower priority, which saves a checkpoint and makes room."
    ),
    "node": N_("It waits for a node: none that is online can run it."),
    "labels": N_("It waits for a node with the labels %(labels)s: none that could run it is free."),
    "merging": N_("The adapter is being merged into its base first. Then it starts by itself."),
    "host": N_(
        "It waits for the engine that carries it. It loads by itself as soon as that one is ready."
    ),
    "retry": N_("The engine ended. It is tried again shortly."),
}
STARTING = ("scheduled", "starting")
ZONES = sorted(zone for zone in available_timezones() if "/" in zone or zone == "UTC")


def address() -> str:
    """The base URL for OpenAI clients."""
    return f"{platform.url}/v1"


def speaker(request: Request) -> Callable[..., str]:
    """Says a msgid in the reader's language. Some come from an engine's log, so one whose places
    do not fit its params is shown as it is.
    """

    def say(message: str, **params: Any) -> str:
        try:
            return translate(request, message, **params)
        except (KeyError, TypeError, ValueError):
            return message

    return say


def rows(db: Session, found: list[Deployment]) -> list[dict[str, Any]]:
    """For tables: each with its model and its replicas."""
    names = {one.model_id for one in found}
    models = {one.id: one for one in db.scalars(select(Model).where(Model.id.in_(names)))}
    replicas = service.replicas(db, found)
    return [
        {
            "deployment": one,
            "model": models[one.model_id],
            "ready": sum(replica.state == "ready" for replica in replicas[one.id]),
            "live": one.state in ("pending", "starting", "stopping", "unhealthy"),
        }
        for one in found
    ]


def detail(db: Session, deployment: Deployment, say: Callable[..., str]) -> dict[str, Any]:
    """Everything that a deployment's page shows, but for its log."""
    replicas = service.replicas(db, [deployment])[deployment.id]
    return live(db, deployment, replicas, say) | {
        "model": db.get_one(Model, deployment.model_id),
        "samples": samples(deployment.name, embeds=runners.embeds(deployment.arguments)),
        "address": address(),
        "own_address": own_address(deployment.id),
        "embeds": runners.embeds(deployment.arguments),
        "events": events(db, deployment, say),
    }


def first_waits(
    db: Session, found: list[Deployment], replicas: Mapping[str, list[Replica]]
) -> dict[str, Wait]:
    """Deployment id → where the first of its replicas stands that wait for devices."""
    of = {
        replica.id: one.id
        for one in found
        for replica in replicas[one.id]
        if replica.state == "pending" and one.desired == "running"
    }
    first: dict[str, Wait] = {}
    for replica_id, wait in waits_of(db, "replica", list(of)).items():
        known = first.get(of[replica_id])
        if known is None or (wait.position or sys.maxsize) < (known.position or sys.maxsize):
            first[of[replica_id]] = wait
    return first


def first_of(db: Session, replicas: list[Replica]) -> Wait | None:
    """Where the first of those that wait for devices stands."""
    pending = [replica.id for replica in replicas if replica.state == "pending"]
    found = waits_of(db, "replica", pending).values()
    return min(found, key=lambda one: one.position or sys.maxsize, default=None)


def live(
    db: Session, deployment: Deployment, replicas: list[Replica], say: Callable[..., str]
) -> dict[str, Any]:
    """The part of the page that changes by itself."""
    waiting = deployment.state == "pending" and deployment.desired == "running"
    found = trouble(deployment, replicas)
    return {
        "deployment": deployment,
        "priority": PRIORITIES[deployment.priority],
        "replicas": replicas,
        "devices": service.holding(db, [replica.id for replica in replicas]),
        "starts": {one.id: start(one, replicas) for one in replicas if one.state in STARTING},
        "waits": waits(deployment, say) if waiting else "",
        "wait": first_of(db, replicas) if waiting else None,
        "error": spoken(found, say),
        "fixes": remedies(db, deployment, current(deployment), found),
        "refused": gone_back(db, deployment, say),
    }


def waits(deployment: Deployment, say: Callable[..., str]) -> str:
    if deployment.labels and deployment.reason in PLACES:
        return say(WAITS["labels"], labels=written(deployment.labels))
    return say(WAITS.get(deployment.reason, WAITS["new"]))


def start(replica: Replica, siblings: list[Replica]) -> dict[str, Any]:
    """A start that is under way: {steps, done (percent), left (seconds), elapsed (seconds)}."""
    before = phases.last_time(replica, siblings)
    steps = phases.steps(replica, before, now())
    return {
        "steps": steps,
        "done": phases.share_done(steps),
        "left": phases.left(steps),
        "elapsed": sum(step.seconds or 0.0 for step in steps),
        "before": phases.summary(before) if before else None,
    }


def gone_back(
    db: Session, deployment: Deployment, say: Callable[..., str]
) -> dict[str, Any] | None:
    """The newest revision, where the deployment has gone back from it: {number, error, fixes}."""
    newest = next(iter(revisions.history(db, deployment.id, limit=1)), None)
    if newest is None or newest.error is None or newest.number == deployment.revision:
        return None
    return {
        "number": newest.number,
        "error": spoken(newest.error, say),
        "fixes": remedies(db, deployment, revisions.stored(newest), newest.error),
    }


def events(db: Session, deployment: Deployment, say: Callable[..., str]) -> list[dict[str, Any]]:
    """Newest first."""
    return [
        {
            "at": event.at,
            "kind": event.kind,
            "message": say(event.message, **event.params),
        }
        for event in service.events(db, deployment.id)
    ]


def log(
    db: Session,
    deployment: Deployment,
    which: tuple[int | None, int],
    fence: int | None,
    offset: int,
) -> tuple[int, int, bytes]:
    """A piece of a replica's log: which start it is of, the offset after it, and the bytes.

    `which` is (revision, index); no revision is the present one.
    """
    revision, index = which
    replica = db.scalar(
        select(Replica).where(
            Replica.deployment_id == deployment.id,
            Replica.revision == (revision or deployment.revision),
            Replica.index == index,
        )
    )
    if replica is None:
        raise NotFound(N_("There is no such replica."))
    return service.log(db, replica, fence, offset)


def settings(db: Session, deployment: Deployment, say: Callable[..., str]) -> dict[str, Any]:
    """For the tab: revisions with who made them, the schedule, and what time zones there are."""
    history = revisions.history(db, deployment.id)
    people = db.scalars(select(User).where(User.id.in_({one.user_id for one in history})))
    return {
        "history": [(one, spoken(one.error, say)) for one in history],
        "people": {person.id: person.shown for person in people},
        "zones": ZONES,
    }


def free_name(db: Session, workspace_id: str, model: str) -> str:
    """A name for a deployment of `model` that is allowed and not taken yet."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._")[:50] or "model"
    taken = {one.name for one in service.list_deployments(db, workspace_id, limit=1000)[0]}
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
