"""What a deployment may be called, and how much it may ask for."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.cluster import budgets
from app.deployments import aliases
from app.deployments.tables import Deployment
from app.errors import N_, Conflict, Invalid
from app.quotas import accounts
from app.quotas import service as quotas


def check_name(db: Session, workspace_id: str, name: str) -> None:
    taken = db.scalar(
        select(Deployment.id).where(
            Deployment.workspace_id == workspace_id,
            Deployment.name == name,
            Deployment.deleted_at.is_(None),
        )
    )
    if taken:
        raise Conflict(
            N_("There is a deployment called %(name)s already. Choose another name."),
            code="name_taken",
            field="name",
            name=name,
        )
    if aliases.find(db, workspace_id, name):
        raise Conflict(
            N_("There is an alias called %(name)s already. Choose another name."),
            code="name_taken",
            field="name",
            name=name,
        )


def check_count(db: Session, workspace_id: str, user_id: str) -> None:
    """Raises Invalid if it would be one deployment too many. Under the cluster's lock."""
    have: dict[str | None, int] = dict(
        db.execute(
            select(Deployment.created_by, func.count())
            .where(Deployment.workspace_id == workspace_id, Deployment.deleted_at.is_(None))
            .group_by(Deployment.created_by)
        ).all()
    )
    have[None] = sum(have.values())
    budgets.refuse_never(db, workspace_id, user_id, 1)
    budgets.refuse_count(db, workspace_id, user_id, "deployments", have)


def check_quota(db: Session, workspace_id: str, devices: int) -> None:
    """All replicas together must fit below the workspace's quota, or some would wait for ever."""
    most = quotas.limit(db, workspace_id)
    if most is not None and devices > most:
        raise Invalid(
            N_(
                "All replicas together need %(devices)s devices, but this workspace may hold "
                "%(most)s at once. Choose fewer replicas or devices."
            ),
            code="quota",
            field="replicas",
            devices=devices,
            most=most,
            quota="devices",
        )


def check_money(db: Session, workspace_id: str, user_id: str) -> None:
    """Before engines are started by hand: the balance and the GPU-hours must not be used up.

    Raises OutOfMoney, and Invalid.
    """
    accounts.refuse_if_out(db, workspace_id)
    budgets.refuse_used_up(db, workspace_id, user_id)
