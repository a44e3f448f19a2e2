"""Asking for an import, stopping it, trying it again, and saying how far it is."""

import os
import shutil
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import hubs, storage
from app.accounts import user_secrets
from app.accounts.auth import Principal
from app.config import settings
from app.db import new_id
from app.errors import N_, Conflict, Forbidden, Invalid, NotFound
from app.models import importing, presets, service, sources
from app.models.states import CANCELLED, FAILED, IMPORTING, SUCCEEDED, switch
from app.models.tables import Model, ModelImport
from app.queue import transaction
from app.quotas import stored
from app.uploads import service as uploads
from app.uploads.tables import Upload

MOST = 100  # imports of a workspace that a list shows
MOVING = 20  # that a workspace may have on their way
NAME = 120
FILES = 1000  # of one upload


class Asked(BaseModel):
    """What is to be imported: a preset, a hub's repository, a directory of the server, or files
    that were uploaded in pieces (`/api/v1/uploads`). Exactly one of these.
    """

    name: str = Field("", description="Of the model; by default the repository's or folder's")
    preset: str = Field("", description="Id of a preset; `hub` says where from")
    hub: Literal["", "huggingface", "modelscope"] = ""
    repository: str = Field("", max_length=400, description="owner/name, or its address")
    revision: str = Field("", max_length=200, description="Branch, tag or commit; kept as commit")
    secret: str = Field("", max_length=60, description="Id of a secret: the hub's token")
    path: str = Field("", max_length=4000, description="Of a directory on the server")
    uploads: list[str] = Field([], max_length=FILES, description="Ids of complete uploads")
    base: str = Field("", max_length=200, description="Of an adapter: id or name of its base")
    shared: bool = Field(False, description="For all workspaces; platform administrators only")


def begin(who: Principal, asked: Asked) -> ModelImport:
    """An import that is on its way. Raises Invalid, Forbidden, NotFound, Conflict, TooLarge.

    Uploaded files go into the store between two transactions: that may take a while.
    """
    if asked.shared and not who.is_platform_admin:
        raise Forbidden(N_("Only platform administrators add models for everybody."))
    if [bool(asked.preset or asked.repository), bool(asked.path), bool(asked.uploads)].count(
        True
    ) != 1:
        raise Invalid(
            N_("Say one thing to import: a repository, a directory, or uploaded files."),
            code="import.source",
            field="repository",
        )
    clean_name(asked.name, "")
    with transaction() as db:
        room(db, who)
        stored.check(db, who.workspace_id, who.user_id)
        base = service.get(db, who.workspace_id, asked.base) if asked.base else None
        if base is not None and base.kind == "adapter":
            raise Invalid(
                N_("“%(name)s” is an adapter itself. Choose a whole model."),
                field="base",
                name=base.name,
            )
        sent = uploads.complete(db, who, asked.uploads)
        source, label = from_uploads(sent) if sent else from_place(asked)
        if asked.secret:
            source["secret"] = user_secrets.find(db, who, asked.secret, source["from"]).id
    one = ModelImport(
        id=new_id("imp"),
        workspace_id=who.workspace_id,
        created_by=who.user_id,
        shared=asked.shared,
        name=clean_name(asked.name, label),
        source=source,
        base_id=base.id if base else None,
    )
    if sent:
        store(one.id, sent)
    try:
        with transaction() as db:
            switch(db, one, IMPORTING, user_id=who.user_id)
            importing.nudge(db, one)
    except BaseException:
        storage.delete(sources.upload(one.id))
        raise
    uploads.used([each.id for each in sent])
    return one


def room(db: Session, who: Principal) -> None:
    moving = select(ModelImport.id).where(
        ModelImport.workspace_id == who.workspace_id, ModelImport.state == IMPORTING
    )
    if len(db.scalars(moving.limit(MOVING)).all()) >= MOVING:
        raise Conflict(
            N_("%(most)s models are on their way already. Wait for some, or cancel them."),
            code="import.too_many",
            most=MOVING,
        )


def from_place(asked: Asked) -> tuple[dict[str, Any], str]:
    """What an import's row keeps of where it comes from, and a name for the model."""
    if asked.path:
        real = sources.allowed_directory(asked.path)
        return {"from": "directory", "path": str(real)}, real.name
    hub, repository, more = asked.hub or "huggingface", asked.repository, {}
    if asked.preset:
        preset = presets.find(asked.preset)
        if preset is None:
            raise NotFound(N_("There is no such preset."), field="preset")
        repository, more = preset.repository(hub), {"preset": preset.id}
    repository, revision = hubs.named(hub, repository, asked.revision)
    source = {"from": hub, "repository": repository, "revision": revision} | more
    return source, repository.rpartition("/")[2]


def from_uploads(sent: list[Upload]) -> tuple[dict[str, Any], str]:
    if sum(one.size for one in sent) > settings.max_model_gb * sources.GIB:
        raise sources.too_large()
    first, _, inside = sent[0].file_name.partition("/")
    label = first if inside else first.removesuffix(".zip") if len(sent) == 1 else ""
    return {"from": "upload", "files": [{"name": one.file_name} for one in sent]}, label


def store(import_id: str, sent: list[Upload]) -> None:
    """The files of complete uploads as an artefact; they stay where they are, too."""
    directory = importing.place(import_id)
    directory.mkdir(parents=True, mode=0o700)
    try:
        for number, one in enumerate(sent):
            os.link(uploads.place(one.id), directory / str(number))
        storage.move(directory, sources.upload(import_id))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def clean_name(name: str, label: str) -> str:
    """A model's name: what was typed, else `label`; printable, without a path. Raises Invalid."""
    typed = "".join(char for char in (name or label) if char.isprintable()).strip()
    if len(typed) > NAME:
        raise Invalid(
            N_("A name has at most %(most)s characters."),
            code="name.too_long",
            field="name",
            most=NAME,
        )
    return typed.replace("/", "-") or "model"


# -- one that is there ---------------------------------------------------------------------


def find(db: Session, workspace_id: str, import_id: str) -> ModelImport:
    """Raises NotFound, also for another workspace's."""
    one = db.scalar(
        select(ModelImport).where(
            ModelImport.id == import_id, ModelImport.workspace_id == workspace_id
        )
    )
    if one is None:
        raise NotFound(N_("There is no such import."))
    return one


def every(db: Session, workspace_id: str, *, hidden: bool = False) -> list[ModelImport]:
    """The workspace's, the newest first; those taken off the list only with `hidden`."""
    query = select(ModelImport).where(ModelImport.workspace_id == workspace_id)
    if not hidden:
        query = query.where(ModelImport.hidden.is_(False))
    return list(db.scalars(query.order_by(ModelImport.created_at.desc()).limit(MOST)))


def locked(db: Session, who: Principal, import_id: str) -> ModelImport:
    one = find(db, who.workspace_id, import_id)
    db.refresh(one, with_for_update=True)
    return one


def cancel(db: Session, who: Principal, import_id: str) -> ModelImport:
    """Stop it; what is here goes with the next sweep. Raises Conflict if it is over."""
    one = locked(db, who, import_id)
    switch(db, one, CANCELLED, user_id=who.user_id)
    return one


def retry(db: Session, who: Principal, import_id: str, base: str = "") -> ModelImport:
    """Try again, from the bytes that are here; `base` names another base for an adapter.

    Raises Conflict if it moves, succeeded, or was an upload whose files are gone.
    """
    one = locked(db, who, import_id)
    if one.state in (FAILED, CANCELLED) and one.cleared and one.source["from"] == "upload":
        raise Conflict(
            N_("The uploaded files were kept for a day and are gone. Upload them again."),
            code="import.gone",
        )
    if base:
        one.base_id = service.get(db, who.workspace_id, base).id
    if one.cleared or one.state == CANCELLED:
        one.cursor = {}
    else:
        kept = ("files", "left_out", "total", "at", "received", "best", "commit", "notes")
        one.cursor = {key: one.cursor[key] for key in kept if key in one.cursor}
    one.cleared = one.hidden = False
    switch(db, one, IMPORTING, user_id=who.user_id)
    importing.nudge(db, one)
    return one


def hide(db: Session, who: Principal, import_id: str) -> None:
    """Take it off the list. Raises Conflict while it moves."""
    one = locked(db, who, import_id)
    if one.state == IMPORTING:
        raise Conflict(N_("This import is on its way. Cancel it first."), code="import.moving")
    one.hidden = True


def progress(one: ModelImport) -> dict[str, Any]:
    """{received, total, file, number, files, waits}: bytes of all files; a total not known is None;
    `waits` a stored sentence or None.
    """
    cursor = one.cursor
    files = cursor.get("files") or []
    at = min(cursor.get("at", 0), max(len(files) - 1, 0))
    return {
        "received": (one.state == SUCCEEDED and cursor.get("total")) or cursor.get("received", 0),
        "total": cursor.get("total"),
        "file": files[at]["name"] if files else "",
        "number": at + 1 if files else 0,
        "files": len(files),
        "waits": cursor.get("waits"),
    }


def by_repository(db: Session, workspace_id: str) -> dict[str, str]:
    """Repository → id of the newest model here that came from it."""
    here = service.seen_from(workspace_id).where(
        Model.deleted_at.is_(None), Model.lineage.has_key("source")
    )
    return {
        one.lineage["source"].get("repository", ""): one.id
        for one in db.scalars(here.order_by(Model.created_at))
    }
