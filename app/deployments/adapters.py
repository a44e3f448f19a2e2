"""The adapters that a deployment's engines carry: what a person sees and does."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.deployments import guests, service, sizing
from app.deployments.schemas import DeploymentCreate
from app.deployments.tables import AdapterLoad, Deployment, Replica
from app.errors import N_, Invalid, NotFound
from app.models.tables import Model


@dataclass(frozen=True)
class Adapter:
    """One guest, and where it is loaded."""

    deployment: Deployment
    model: Model
    rank: int
    used_at: datetime | None
    loads: list[tuple[Replica, AdapterLoad]]

    @property
    def seconds(self) -> float | None:
        """That its last load took."""
        loaded = [load for _, load in self.loads if load.state == "loaded"]
        return max(loaded, key=lambda load: load.at).seconds if loaded else None


def listed(db: Session, host: Deployment) -> list[Adapter]:
    """The guests of a deployment, last used first."""
    found = guests.guests_of(db, host.id)
    loads = guests.carriers(db, [one.id for one in found])
    models = {
        one.id: one
        for one in db.scalars(select(Model).where(Model.id.in_({one.model_id for one in found})))
    }
    found.sort(key=lambda one: (guests.last_asked(one), one.id), reverse=True)
    return [
        Adapter(
            deployment=one,
            model=models[one.model_id],
            rank=sizing.rank_of(sizing.read_json(models[one.model_id], "adapter_config.json")),
            used_at=one.last_used_at,
            loads=loads[one.id],
        )
        for one in found
    ]


def choices(db: Session, host: Deployment) -> list[Model]:
    """The adapters of its base that could be added, newest first."""
    served = db.get(Model, host.served_model_id) if host.served_model_id else None
    if served is None or not host.adapters:
        return []
    base = served.base_id if host.mode == "adapter" else served.id
    query = (
        select(Model)
        .where(
            Model.kind == "adapter",
            Model.base_id == base,
            Model.deleted_at.is_(None),
            or_(Model.workspace_id == host.workspace_id, Model.workspace_id.is_(None)),
        )
        .order_by(Model.created_at.desc(), Model.id)
        .limit(200)
    )
    return list(db.scalars(query))


def add(db: Session, who: Principal, host_id: str, name: str, model: str) -> Deployment:
    """Serve an adapter by the engines of this deployment, under a name of its own.

    Raises NotFound, Conflict (name taken) and Invalid (it cannot be carried there, and why).
    """
    host = service.get(db, who.workspace_id, host_id)
    if not host.adapters or host.host_id:
        raise Invalid(
            N_("The engines of %(name)s have no room for adapters."), code="no_room", name=host.name
        )
    return service.create(db, who, DeploymentCreate(name=name, model=model), host=host)


def guest(db: Session, workspace_id: str, host_id: str, guest_id: str) -> Deployment:
    """One that this deployment's engines carry. Raises NotFound."""
    service.get(db, workspace_id, host_id)
    found = service.get(db, workspace_id, guest_id)
    if found.host_id != host_id:
        raise NotFound(N_("There is no such deployment."))
    return found


def act(db: Session, workspace_id: str, host_id: str, guest_id: str, action: str) -> None:
    """load, unload (its name stays) or remove."""
    found = guest(db, workspace_id, host_id, guest_id)
    acts: dict[str, Any] = {
        "load": service.start,
        "unload": service.stop,
        "remove": service.delete,
    }
    acts[action](db, workspace_id, found.id)
