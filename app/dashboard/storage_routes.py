"""Parts of the page of storage: what takes the room, and what would be cleared away."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from app.accounts import platform
from app.accounts.auth import PLATFORM, Principal, requires
from app.dashboard import clearing, storage
from app.queue import Db
from app.web import render

router = APIRouter(prefix="/admin/storage", include_in_schema=False)
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("/overview", name="storage:overview")
def overview(request: Request, _who: Admin, db: Db) -> Response:
    found = storage.stored(db)
    return render(request, "dashboard/storage.html", stored=found, kinds=storage.KINDS)


@router.get("/clean", name="storage:clean")
def preview(request: Request, _who: Admin, db: Db) -> Response:
    return part(request, db, clearing.due(db), begun=False)


@router.post("/clean", name="storage:clean_now")
def clean(request: Request, _who: Admin, db: Db) -> Response:
    return part(request, db, clearing.clear(db), begun=True)


def part(request: Request, db: Db, items: list[clearing.Item], *, begun: bool) -> Response:
    wanted = platform.read(db).retention
    return render(request, "dashboard/clearing.html", items=items, wanted=wanted, begun=begun)
