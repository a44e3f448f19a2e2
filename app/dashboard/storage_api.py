"""`/api/v1/platform/storage`: what takes the room, and clearing away what may go."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.accounts.auth import PLATFORM, Principal, requires
from app.dashboard import clearing, storage
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/platform/storage", tags=["storage"])
Admin = Annotated[Principal, requires(PLATFORM, "admin")]


class KindOut(BaseModel):
    """A kind of things, and what all of them take."""

    kind: str = Field(description="dataset, base, adapter, merged, checkpoints, run, export, …")
    bytes: int
    count: int


class SpaceOut(BaseModel):
    """A workspace, and its bytes by kind. None: what all workspaces share."""

    workspace: str | None
    name: str
    bytes: int
    kinds: dict[str, int]


class ThingOut(BaseModel):
    """One of the largest things: `id` is the model's, the dataset's, the file's or the job's."""

    model_config = ConfigDict(from_attributes=True)

    kind: str
    id: str
    name: str
    workspace_id: str | None
    bytes: int


class StorageOut(BaseModel):
    """What takes the room: rows of the database, and what nodes told of their disks last."""

    bytes: int
    kinds: list[KindOut]
    workspaces: list[SpaceOut]
    largest: list[ThingOut]


class ItemOut(BaseModel):
    """Something that goes by the settings. `kind` is run (its checkpoints as well where `steps` names
    them), checkpoints, log, model or cache; `since` is when its job ended, or it was deleted.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(validation_alias="key")
    kind: str
    of: str = Field(validation_alias="id", description="The job, the model or the node.")
    name: str
    workspace_id: str | None
    node: str
    bytes: int
    since: datetime | None
    steps: list[int]


class CleanOut(BaseModel):
    """What goes, the largest first; `bytes` and `count` are of all of it, not of this page alone."""

    data: list[ItemOut]
    has_more: bool
    bytes: int
    count: int


@router.get("", name="api:storage:show")
def show(_who: Admin, db: Db) -> StorageOut:
    """Bytes by kind and by workspace, and the largest things."""
    found = storage.stored(db)
    return StorageOut(
        bytes=found.bytes,
        kinds=[
            KindOut(kind=kind, bytes=size, count=found.counts[kind])
            for kind, size in found.kinds.items()
        ],
        workspaces=[
            SpaceOut(workspace=one.id or None, name=one.name, bytes=one.bytes, kinds=one.kinds)
            for one in found.spaces
        ],
        largest=[ThingOut.model_validate(one) for one in found.largest],
    )


def told(items: list[clearing.Item], after: str = "", limit: int = 100) -> CleanOut:
    some, more = page(items, after, limit, key=lambda one: one.key)
    return CleanOut(
        data=[ItemOut.model_validate(one) for one in some],
        has_more=more,
        bytes=sum(one.bytes for one in items),
        count=len(items),
    )


@router.get("/clean", name="api:storage:due")
def due(_who: Admin, db: Db, after: After = "", limit: Limit = 100) -> CleanOut:
    """What would be cleared away now, by the settings' section `retention`. Nothing is."""
    return told(clearing.due(db), after, limit)


@router.post("/clean", status_code=202, name="api:storage:clean")
def clean(_who: Admin, db: Db) -> CleanOut:
    """Clear it away now; nodes do so in the background. It goes by itself as well, within minutes."""
    return told(clearing.clear(db))
