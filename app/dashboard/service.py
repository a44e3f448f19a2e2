"""What the home page and the admin pages show, gathered from every domain."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.cluster import overview as cluster
from app.cluster.tables import Device, Lease, Request
from app.datasets.measures import service as measures
from app.datasets.tables import Dataset, DatasetVersion
from app.db import now
from app.deployments.tables import Deployment
from app.jobs import waiting
from app.jobs.states import ACTIVE
from app.jobs.tables import Job
from app.models.tables import Model
from app.quotas import prices
from app.quotas import service as quotas

RECENT = timedelta(days=7)


@dataclass
class Meter:
    """Devices of a workspace: held now, waited for, allowed at once (None: no limit)."""

    held: int
    waiting: int
    limit: int | None


@dataclass
class Home:
    meter: Meter
    running: list[Job]
    failed: list[Job]
    deployments: list[Deployment]
    has_data: bool = False
    has_job: bool = False
    has_deployment: bool = False
    waits: dict[str, waiting.Wait] = field(default_factory=dict)  # of those of `running` that wait
    sample: Dataset | None = None  # a preset dataset, one click away
    starter: Model | None = None
    to_deploy: list[Model] = field(default_factory=list)  # tuned, and never deployed

    @property
    def new(self) -> bool:
        """Whether the three first steps are still to be shown."""
        return not self.has_deployment


def meter(db: Session, workspace_id: str) -> Meter:
    held = select(func.count()).where(
        Lease.workspace_id == workspace_id, Lease.released_at.is_(None)
    )
    waiting = select(func.coalesce(func.sum(Request.devices), 0)).where(
        Request.workspace_id == workspace_id, Request.granted_at.is_(None)
    )
    return Meter(
        held=db.scalar(held) or 0,
        waiting=db.scalar(waiting) or 0,
        limit=quotas.limit(db, workspace_id),
    )


def home(db: Session, who: Principal) -> Home:
    here = who.workspace_id
    jobs = select(Job).where(Job.workspace_id == here)
    live = select(Deployment).where(
        Deployment.workspace_id == here, Deployment.deleted_at.is_(None)
    )
    found = Home(
        meter=meter(db, here),
        running=running(db, here),
        failed=list(
            db.scalars(
                jobs.where(Job.state == "failed", Job.finished_at > now() - RECENT)
                .order_by(Job.finished_at.desc())
                .limit(5)
            )
        ),
        deployments=list(db.scalars(live.order_by(Deployment.created_at.desc()).limit(6))),
        has_data=exists(db, select(Dataset.id).where(Dataset.workspace_id == here)),
        has_job=exists(db, jobs),
        has_deployment=exists(db, select(Deployment.id).where(Deployment.workspace_id == here)),
    )
    if found.new:
        found.sample = sample(db)
        found.starter = next(iter(measures.bases(db, here)), None)
    found.waits = waiting.waits(db, found.running)
    found.to_deploy = to_deploy(db, here)
    return found


def exists(db: Session, query: Any) -> bool:
    return db.scalar(query.limit(1)) is not None


def running(db: Session, workspace_id: str) -> list[Job]:
    """Jobs that run or wait, the oldest first."""
    query = (
        select(Job)
        .where(Job.workspace_id == workspace_id, Job.state.in_((*ACTIVE, "queued")))
        .order_by(Job.created_at)
        .limit(8)
    )
    return list(db.scalars(query))


def sample(db: Session) -> Dataset | None:
    """The first published preset dataset that is for training."""
    return db.scalar(
        select(Dataset)
        .join(DatasetVersion, DatasetVersion.dataset_id == Dataset.id)
        .where(Dataset.workspace_id.is_(None), DatasetVersion.status == "published")
        .order_by(DatasetVersion.rows.desc(), Dataset.id)
        .limit(1)
    )


def to_deploy(db: Session, workspace_id: str) -> list[Model]:
    """Tuned models that were never deployed, the newest first."""
    deployed = select(Deployment.model_id).where(Deployment.workspace_id == workspace_id)
    query = (
        select(Model)
        .where(
            Model.workspace_id == workspace_id,
            Model.job_id.is_not(None),
            Model.kind != "base",
            Model.deleted_at.is_(None),
            Model.id.not_in(deployed),
        )
        .order_by(Model.created_at.desc())
        .limit(1)
    )
    return list(db.scalars(query))


# -- for platform admins -----------------------------------------------------------------


def price_list(db: Session) -> list[tuple[str, prices.Hour | None]]:
    """(a device's model, its price): the general one, with no name, first; then every device that
    nodes have or that has a price.
    """
    known = {price.device: price for price in prices.all_of(db)}
    models = db.scalars(select(Device.model).where(Device.model != "").distinct())
    return [(name, known.get(name)) for name in sorted({"", *known, *models})]


def limits(db: Session) -> list[dict[str, Any]]:
    """Every workspace's quota, what it holds and waits for. See `cluster.overview.limits`."""
    return cluster.limits(db)


def limit_of(db: Session, workspace_id: str) -> dict[str, Any]:
    """One row of `limits`."""
    return next(row for row in limits(db) if row["workspace_id"] == workspace_id)
