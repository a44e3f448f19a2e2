"""JSON: the platform's settings, for platform admins."""

from typing import Annotated

from fastapi import APIRouter

from app.accounts import platform
from app.accounts.auth import PLATFORM, Principal, requires
from app.accounts.platform import Platform
from app.queue import Db

router = APIRouter(prefix="/api/v1", tags=["settings"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


@router.get("/settings")
def read_settings(_who: Admin, db: Db) -> Platform:
    """Every setting by section; of secrets only whether there is one."""
    return platform.read(db)


@router.patch("/settings")
def change_settings(body: Platform, who: Admin, db: Db) -> Platform:
    """Only what is sent changes. A secret sent as it was shown stays; an empty one is forgotten."""
    return platform.change(db, who, **body.model_dump(exclude_unset=True))
