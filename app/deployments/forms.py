"""The forms of settings: what was typed so far, and whether it would fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.cluster import labels
from app.deployments import editing, fitting
from app.deployments.fitting import Fit
from app.deployments.options import ARGUMENTS, offered
from app.deployments.plans import Plan, device_kind, plan
from app.deployments.revisions import Settings, current
from app.deployments.schemas import GIB, Wishes
from app.deployments.tables import Deployment
from app.errors import DomainError


def wishes(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a form says so far; what is not yet right is left out."""
    known = {*Wishes.model_fields, "memory_gib"}
    kept = {
        name: value
        for name, value in values.items()
        if value != "" and (name in known or name.startswith("arguments."))
    }
    try:
        return Wishes.model_validate(kept).model_dump()
    except ValidationError as error:
        wrong = {str(each["loc"][0]) for each in error.errors()}
    wrong |= {"memory_gib"} if "memory" in wrong else set()
    kept = {name: value for name, value in kept.items() if name.partition(".")[0] not in wrong}
    return Wishes.model_validate(kept).model_dump()


@dataclass(frozen=True)
class Thought:
    """What a form would make: the plan and whether it fits, or why it cannot be."""

    plan: Plan | None = None
    fit: Fit | None = None
    refused: DomainError | None = None
    gap: bool = False  # while it changes, nobody answers


def thought(db: Session, workspace_id: str, values: Mapping[str, Any]) -> Thought:
    """About a new deployment. Nothing without a model."""
    if not values.get("model"):
        return Thought()
    try:
        found = plan(
            db,
            workspace_id,
            str(values["model"]),
            mode=str(values["mode"]) if values.get("mode") else None,
            **wishes(values),
        )
    except DomainError as error:
        return Thought(refused=error)
    count = str(values.get("replicas") or 1)
    many = int(count) if count.isdecimal() and len(count) < 3 else 1
    return Thought(found, fitting.fit(db, workspace_id, found, many))


def rethought(db: Session, deployment: Deployment, values: Mapping[str, Any]) -> Thought:
    """About a change of one that is there."""
    try:
        settings = replace(current(deployment), **wishes(values))
        found = editing.planned(db, deployment, settings)
    except DomainError as error:
        return Thought(refused=error)
    if found.settings.wishes() == current(deployment).wishes():
        return Thought(found)
    fit, gap = editing.gap(db, deployment, found)
    return Thought(found, fit, gap=gap)


def typed(settings: Settings) -> dict[str, Any]:
    """Settings as the fields of a form have them."""
    values = settings.wishes() | {
        "memory_gib": f"{settings.memory / GIB:g}" if settings.memory else "",
    }
    return values | {f"arguments.{name}": value for name, value in settings.arguments.items()}


def applied(values: Mapping[str, Any]) -> dict[str, Any]:
    """A form's values with the change that its pressed button names: fix=max_model_len=4096."""
    found = dict(values)
    for name, value in parse_qsl(str(found.pop("fix", ""))[:500]):
        if name == "memory" and value.isdecimal():
            found["memory_gib"] = f"{int(value[:20]) / GIB:g}"
        else:
            found[name] = value
    return found


def choices(db: Session) -> dict[str, Any]:
    """What the fields of the form offer: what can be on the devices there are."""
    kind = device_kind(db)
    return {
        "labels": labels.offered(db),
        "quantizations": offered(engine="vllm", kind=kind, config={}),
        "arguments": [one for one in ARGUMENTS.values() if kind is None or kind in one.devices],
    }
