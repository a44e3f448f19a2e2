"""Asking for an import: a version made of what an address or a hub's repository gives."""

import shutil
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from app import addresses
from app.accounts import user_secrets
from app.accounts.auth import Principal
from app.datasets import service
from app.datasets.intake import hubs
from app.datasets.intake.upload import partial
from app.datasets.states import FAILED, IMPORTING, switch
from app.datasets.tables import DatasetVersion
from app.db import new_id
from app.errors import N_, Conflict, DomainError, Invalid
from app.queue import transaction
from app.uploads.service import display_name

CANCELLED: dict[str, Any] = {
    "code": "cancelled",
    "message": N_("The import was cancelled."),
    "params": {},
}


class Asked(BaseModel):
    """What is to be imported: an address, or a dataset repository of a hub."""

    name: str = Field("", description="Of the dataset; by default the file's or the repository's")
    dataset: str = Field("", description="Id of a dataset that this becomes a new version of")
    url: str = Field("", max_length=4000, description="http or https, public")
    hub: str = Field("", description="huggingface or modelscope")
    repository: str = Field("", max_length=400, description="owner/name")
    revision: str = Field(
        "", max_length=200, description="Branch, tag or commit; recorded as commit"
    )
    secret: str = Field("", max_length=60, description="Id of a secret: the hub's token")
    files: list[str] = Field(
        [],
        max_length=1000,
        description="Paths, or folders that end in “/”; all data files if empty",
    )


def begin(who: Principal, asked: Asked) -> DatasetVersion:
    """A version that is `importing`; `.dataset` is loaded. Raises Invalid for what cannot be."""
    if asked.url and asked.hub:
        raise Invalid(N_("Give an address or a repository, not both."), code="import.both")
    if asked.hub:
        repository, revision = hubs.named(asked.hub, asked.repository, asked.revision)
        recipe = {
            "made": "import",
            "from": asked.hub,
            "repository": repository,
            "revision": revision,
            "files": asked.files,
        }
        if asked.secret:
            with transaction() as db:
                recipe["secret"] = user_secrets.find(db, who, asked.secret, asked.hub).id
        cursor, label = {}, repository.rpartition("/")[2]
    else:
        try:
            target = addresses.check(asked.url)
        except DomainError as error:
            error.field = "url"
            raise
        # what a query holds may be a secret: it is forgotten once the file is here
        recipe = {"made": "import", "from": "url", "url": target.url.partition("?")[0]}
        label = display_name(urlsplit(target.url).path) or target.host
        cursor = {"files": [{"name": "", "url": target.url}], "at": 0}
    name = "" if asked.dataset else service.clean_name(asked.name, label)
    version_id = new_id("dv")
    with transaction() as db:
        dataset = (
            service.own(db, who, asked.dataset) if asked.dataset else service.create(db, who, name)
        )
        added = service.add_version(
            db,
            dataset,
            user_id=who.user_id,
            status=IMPORTING,
            cursor=cursor,
            id=version_id,
            file_name=label,
            recipe=recipe,
            upload=f"uploads/{version_id}",
        )
        service.nudge(db, added)
    with transaction() as db:
        return service.version(db, who.workspace_id, added.dataset_id, added.id)


def cancel(who: Principal, dataset_id: str, which: str = "") -> DatasetVersion:
    """Stop an import: the version is `failed`. Raises Conflict if it is none."""
    with transaction() as db:
        service.own(db, who, dataset_id)
        one = service.version(db, who.workspace_id, dataset_id, which)
        db.refresh(one, ["status", "recipe"], with_for_update=True)
        if one.status != IMPORTING or one.recipe.get("made") != "import":
            raise Conflict(N_("This version is not being imported."), code="not_importing")
        switch(db, one, FAILED, user_id=who.user_id, error=CANCELLED)
    shutil.rmtree(partial(one.id), ignore_errors=True)
    return one
