"""Fair share: what each workspace has had of the devices, against the weight that it is given."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Float, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.cluster.scheduling.board import HALF_LIFE, Use
from app.cluster.scheduling.order import NORMAL, URGENT, Share
from app.cluster.tables import FairShare, Lease
from app.db import now
from app.errors import N_, Invalid

MOST_WEIGHT = 1000.0


def shares(db: Session) -> dict[str, Share]:
    """Workspace id → what it is due and has had, for those of which anything is known."""
    rows = db.execute(
        select(FairShare.workspace_id, FairShare.weight, FairShare.used, FairShare.at)
    )
    return {id_: Share(weight, used, at.timestamp()) for id_, weight, used, at in rows}


def add(db: Session, leases: Iterable[Lease], at: datetime) -> None:
    """Leases end: their device-seconds count from now on, half after a day, a quarter after two."""
    had: dict[str, Use] = {}
    for lease in leases:
        had.setdefault(lease.workspace_id, Use()).add(lease.created_at.timestamp(), 1)
    for workspace_id, use in had.items():
        used = use.running(at.timestamp())
        row = insert(FairShare).values(
            workspace_id=workspace_id, weight=1.0, priority=NORMAL, used=used, at=at
        )
        age = cast(func.extract("epoch", at - FairShare.at), Float)
        kept = FairShare.used * func.power(2.0, -func.greatest(0.0, age) / HALF_LIFE)
        db.execute(
            row.on_conflict_do_update(
                index_elements=[FairShare.workspace_id], set_={"used": kept + used, "at": at}
            )
        )


def put(db: Session, workspace_id: str, weight: float, priority: int) -> None:
    """What the workspace is due, and how urgent its members may say that their work is.

    Raises Invalid.
    """
    if not 0 < weight <= MOST_WEIGHT:
        raise Invalid(
            N_("A weight is a number above 0, and %(most)s at most."),
            field="weight",
            most=round(MOST_WEIGHT),
        )
    if not 0 <= priority < URGENT:
        raise Invalid(N_("Urgent is for platform administrators."), field="priority")
    values = {"weight": weight, "priority": priority}
    row = insert(FairShare).values(workspace_id=workspace_id, used=0.0, at=now(), **values)
    db.execute(row.on_conflict_do_update(index_elements=[FairShare.workspace_id], set_=values))


def of(db: Session, workspace_id: str) -> FairShare:
    """As it is stored, or as one has it of whom nothing is stored."""
    return db.get(FairShare, workspace_id, populate_existing=True) or FairShare(
        workspace_id=workspace_id, weight=1.0, priority=NORMAL, used=0.0, at=now()
    )
