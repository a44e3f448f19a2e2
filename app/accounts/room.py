"""Whether this machine's disk has room for what users send. The floor is a platform setting."""

import shutil
from pathlib import Path

from sqlalchemy.orm import Session

from app.accounts import platform
from app.config import settings
from app.errors import disk_full


def check(db: Session, size: int = 0) -> None:
    """Raises DiskFull if `size` bytes more in the home would reach below the disk's floor."""
    place = settings.home if settings.home.exists() else Path("/")
    disk = shutil.disk_usage(place)
    if disk.free - size < platform.read(db).disk.floor(disk.total):
        raise disk_full()
