"""Limits of a workspace, and the ledger. What is held just now is `app.cluster`'s to say."""

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.accounts.tables import Workspace
from app.db import now
from app.errors import N_, Invalid, NotFound
from app.quotas.tables import Quota, Usage

MOST_DEVICES = 100_000


def limit(db: Session, workspace_id: str) -> int | None:
    """How many devices the workspace may hold at once; None is no limit."""
    return db.scalar(select(Quota.devices).where(Quota.workspace_id == workspace_id))


def limits(db: Session) -> dict[str, int]:
    """Workspace id → limit, for the workspaces that have one."""
    rows = db.execute(select(Quota.workspace_id, Quota.devices).where(Quota.devices.is_not(None)))
    return {workspace_id: devices for workspace_id, devices in rows if devices is not None}


def workspace(db: Session, who: Principal, id_or_slug: str) -> Workspace:
    """The workspace whose quota `who` may see: their own, or any for a platform admin.

    Raises NotFound.
    """
    found = db.scalar(
        select(Workspace).where(or_(Workspace.id == id_or_slug, Workspace.slug == id_or_slug))
    )
    if found is None or not (who.is_platform_admin or found.id == who.workspace_id):
        raise NotFound(N_("There is no such workspace."))
    return found


def put(db: Session, workspace_id: str, devices: int | None) -> None:
    """Set the limit; None lifts it. What is held already stays held: a lower limit lets
    running work end, and holds back what asks next. Raises Invalid.
    """
    if devices is not None and not 0 <= devices <= MOST_DEVICES:
        raise Invalid(
            N_("A quota is a whole number from 0 to %(most)s, or empty for no limit."),
            field="devices",
            most=MOST_DEVICES,
        )
    row = {"workspace_id": workspace_id, "devices": devices, "updated_at": now()}
    db.execute(
        insert(Quota)
        .values(**row)
        .on_conflict_do_update(index_elements=[Quota.workspace_id], set_=row)
    )


def record(db: Session, rows: list[dict[str, Any]]) -> None:
    """Append to the ledger. A row whose id is there already is left as it is."""
    if rows:
        db.execute(insert(Usage).on_conflict_do_nothing(index_elements=[Usage.id]), rows)
