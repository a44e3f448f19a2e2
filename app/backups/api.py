"""`/api/v1/platform/backups` and `/api/v1/platform/disks`, for platform admins."""

from typing import Annotated

from fastapi import APIRouter, Request
from sqlalchemy import select

from app.accounts.auth import PLATFORM, Principal, requires
from app.backups import service
from app.backups.schemas import BackupList, BackupOut, DiskOut, Disks
from app.cluster.tables import Node
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/platform", tags=["storage"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("/backups", name="api:backups:list")
def list_backups(
    request: Request, _who: Admin, db: Db, after: After = "", limit: Limit = 50
) -> BackupList:
    """The last thousand that the platform made or tried to make, newest first."""
    found, more = page(service.listed(db, 1000), after, limit)
    return BackupList(data=[BackupOut.of(request, one) for one in found], has_more=more)


@router.post("/backups", status_code=202, name="api:backups:ask")
def ask_backup(request: Request, who: Admin, db: Db) -> BackupOut:
    """Make one now, as the settings' section `backups` says."""
    return BackupOut.of(request, service.ask(db, who))


@router.get("/disks", name="api:disks:list")
def list_disks(_who: Admin, db: Db, after: After = "", limit: Limit = 100) -> Disks:
    """The disk of each node, as it told last."""
    told = (DiskOut.of(node) for node in db.scalars(select(Node).order_by(Node.id)))
    found, more = page([one for one in told if one], after, limit, key=lambda one: one.node)
    return Disks(data=found, has_more=more)
