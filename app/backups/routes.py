"""The page of disks and backups."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from app.accounts import platform
from app.accounts.auth import PLATFORM, Principal, requires
from app.backups import service
from app.backups.schemas import DiskOut
from app.cluster.tables import Node
from app.queue import Db
from app.web import redirect, render

router = APIRouter(prefix="/admin/storage", include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("", name="storage:page")
def page(request: Request, _who: Admin, db: Db) -> Response:
    told = (DiskOut.of(node) for node in db.scalars(select(Node).order_by(Node.id)))
    return render(
        request,
        "backups/page.html",
        disks=[one for one in told if one],
        backups=service.listed(db),
        wanted=platform.read(db).backups,
    )


@router.post("/backup", name="storage:backup")
def backup(request: Request, who: Admin, db: Db) -> Response:
    service.ask(db, who)
    return redirect(request, "storage:page")
