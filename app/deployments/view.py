"""What the pages of deployments show."""

import re
from collections.abc import Callable
from typing import Any

from fastapi import Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import settings
from app.deployments import service
from app.deployments.plans import Plan, plan
from app.deployments.samples import samples
from app.deployments.schemas import spoken, trouble
from app.deployments.tables import Deployment, Replica
from app.errors import N_, DomainError, NotFound
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
        "It waits for a free device: all of them are held. It starts by itself when one is "
        "given back."
    ),
    "memory": N_(
        "It waits for memory: no device has enough of it free. It starts by itself when enough "
        "is given back."
    ),
    "node": N_("It waits for a node: none that is online can run it."),
    "merging": N_("The adapter is being merged into its base first. Then it starts by itself."),
    "retry": N_("The engine ended. It is tried again shortly."),
}
PHASES = ("fetch", "start", "load", "compile", "warm", "check")


def address() -> str:
    """The base URL for OpenAI clients."""
    return f"{settings.url}/v1"


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
        "samples": samples(deployment.name),
        "address": address(),
        "events": events(db, deployment, say),
    }


def live(
    db: Session, deployment: Deployment, replicas: list[Replica], say: Callable[..., str]
) -> dict[str, Any]:
    """The part of the page that changes by itself."""
    waiting = deployment.state == "pending" and deployment.desired == "running"
    return {
        "deployment": deployment,
        "replicas": replicas,
        "devices": service.holding(db, [replica.id for replica in replicas]),
        "phases": PHASES,
        "waits": say(WAITS.get(deployment.reason, WAITS["new"])) if waiting else "",
        "error": spoken(trouble(deployment, replicas), say),
        "shorter": shorter(trouble(deployment, replicas)),
    }


def shorter(error: dict[str, Any] | None) -> int | None:
    """The context that would fit, in tokens, where the engine has told it."""
    suggested = str(((error or {}).get("params") or {}).get("suggested") or "")
    return int(suggested) if suggested.isdecimal() else None


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
    db: Session, deployment: Deployment, index: int, fence: int | None, offset: int
) -> tuple[int, int, bytes]:
    """A piece of a replica's log: which start it is of, the offset after it, and the bytes."""
    for replica in service.replicas(db, [deployment])[deployment.id]:
        if replica.index == index:
            return service.log(db, replica, fence, offset)
    raise NotFound(N_("There is no such replica."))


def planned(
    db: Session, workspace_id: str, values: dict[str, Any]
) -> tuple[Plan | None, DomainError | None]:
    """How what is in the form would be served, or why it cannot be. Neither without a model."""
    if not values.get("model"):
        return None, None
    try:
        length = str(values.get("max_model_len") or "")
        found = plan(
            db,
            workspace_id,
            str(values["model"]),
            engine=str(values.get("engine") or "auto"),
            mode=str(values["mode"]) if values.get("mode") else None,
            max_model_len=int(length) if length.isdecimal() and len(length) < 9 else None,
        )
    except DomainError as error:
        return None, error
    return found, None


def free_name(db: Session, workspace_id: str, model: str) -> str:
    """A name for a deployment of `model` that is allowed and not taken yet."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._")[:50] or "model"
    taken = {one.name for one in service.list_deployments(db, workspace_id, limit=1000)[0]}
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
