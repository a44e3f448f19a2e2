"""Imports as JSON: from an address, or from a dataset repository of a hub."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from app.accounts import user_secrets
from app.accounts.auth import Principal, requires
from app.datasets import schemas
from app.datasets.intake import hubs, imports
from app.datasets.intake.imports import Asked

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
Writer = Annotated[Principal, requires("member", "datasets:write")]


class HubFile(BaseModel):
    """A file of a repository."""

    path: str
    size: int | None = Field(description="Bytes")
    split: str = Field(description="train, validation or test if the path says so")


class Repository(BaseModel):
    """A dataset repository of a hub, and its data files."""

    hub: str
    repository: str
    commit: str = Field(description="What the revision now is")
    files: list[HubFile] = Field(description="Those that may hold data")


@router.post("/import", status_code=201)
def begin(request: Request, body: Asked, who: Writer) -> schemas.DatasetWithErrors:
    """Import in the background. The status is `importing`, then as after an upload."""
    return schemas.with_errors(request, imports.begin(who, body), [])


@router.get("/import/files")
def files(
    who: Writer,
    hub: str,
    repository: Annotated[str, Query(max_length=400)],
    revision: Annotated[str, Query(max_length=200)] = "",
    secret: Annotated[str, Query(max_length=60)] = "",
) -> Repository:
    """The data files of a repository, to choose from."""
    named = hubs.named(hub, repository, revision)
    found = hubs.look(hub, *named, user_secrets.chosen_token(who, secret, hub))
    listed = [HubFile(path=one.path, size=one.size, split=one.split) for one in found.files]
    return Repository(hub=hub, repository=found.repository, commit=found.commit, files=listed)


@router.post("/{dataset_id}/cancel")
def cancel(
    request: Request, dataset_id: str, who: Writer, version: str = ""
) -> schemas.DatasetWithErrors:
    """Stop an import. Its version is failed; delete the dataset if it has no other."""
    return schemas.with_errors(request, imports.cancel(who, dataset_id, version), [])
