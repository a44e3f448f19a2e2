"""The settings of a deployment's replicas, kept revision by revision."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.deployments.tables import Deployment, DeploymentRevision
from app.errors import N_, NotFound


@dataclass(frozen=True)
class Settings:
    """With what an engine is started. `memory` and `estimate` are in bytes."""

    engine: str = "auto"
    devices: int = 1  # per replica
    max_model_len: int = 2048  # tokens
    memory: int | None = None  # of each device; None: as estimated
    exclusive: bool = False  # whole devices
    quantization: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    estimate: dict[str, int] = field(default_factory=dict)  # weights, cache, overhead

    @property
    def asked(self) -> int | None:
        """Bytes asked for on each device; None for whole ones."""
        if self.exclusive:
            return None
        return self.memory or -(-sum(self.estimate.values()) // self.devices) or None

    def wishes(self) -> dict[str, Any]:
        """What a person sets, without what is worked out of it."""
        found = asdict(self)
        del found["estimate"]
        return found


NAMES = tuple(one.name for one in fields(Settings))


def current(deployment: Deployment) -> Settings:
    """What shall run."""
    return Settings(**{name: getattr(deployment, name) for name in NAMES})


def settings_of(db: Session, deployment: Deployment, number: int) -> Settings:
    """Those of one revision."""
    if number == deployment.revision:
        return current(deployment)
    return stored(get(db, deployment, number))


def stored(revision: DeploymentRevision) -> Settings:
    return Settings(**{name: revision.settings[name] for name in NAMES})


def apply(deployment: Deployment, number: int, settings: Settings) -> None:
    deployment.revision = number
    for name in NAMES:
        setattr(deployment, name, getattr(settings, name))


def add(
    db: Session,
    deployment: Deployment,
    settings: Settings,
    user_id: str,
    restores: int | None = None,
) -> DeploymentRevision:
    """The next revision, with these settings; the deployment follows it."""
    last = db.scalar(
        select(func.max(DeploymentRevision.number)).where(
            DeploymentRevision.deployment_id == deployment.id
        )
    )
    revision = DeploymentRevision(
        deployment_id=deployment.id,
        number=(last or 0) + 1,
        settings=asdict(settings),
        user_id=user_id,
        restores=restores,
    )
    db.add(revision)
    apply(deployment, revision.number, settings)
    db.flush()
    return revision


def find(db: Session, deployment: Deployment, number: int) -> DeploymentRevision | None:
    return db.get(DeploymentRevision, (deployment.id, number))


def get(db: Session, deployment: Deployment, number: int) -> DeploymentRevision:
    """Raises NotFound."""
    if revision := find(db, deployment, number):
        return revision
    raise NotFound(N_("This deployment has no revision %(number)s."), number=number)


def history(db: Session, deployment_id: str, limit: int = 100) -> list[DeploymentRevision]:
    """Newest first."""
    return list(
        db.scalars(
            select(DeploymentRevision)
            .where(DeploymentRevision.deployment_id == deployment_id)
            .order_by(DeploymentRevision.number.desc())
            .limit(limit)
        )
    )
