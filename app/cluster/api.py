"""`/api/v1/devices`: what there is and who holds it."""

from typing import Annotated

from fastapi import APIRouter

from app.accounts.auth import Principal, requires
from app.cluster import overview
from app.cluster.schemas import Devices
from app.queue import Db

router = APIRouter(prefix="/api/v1/devices", tags=["devices"])


@router.get("", name="api:devices:list")
def list_devices(who: Annotated[Principal, requires("viewer", "account")], db: Db) -> Devices:
    """Every device. Holders are shown to platform admins; others see those of their workspace."""
    own = None if who.is_platform_admin else who.workspace_id
    return Devices.model_validate({"data": overview.devices(db, own)})
