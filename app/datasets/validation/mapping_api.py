"""Naming the columns of a file as JSON."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.datasets import schemas, service
from app.datasets.formats import columns
from app.datasets.validation import mapping
from app.datasets.validation.mapping import Preview
from app.queue import Db, transaction
from app.web import translate

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Writer = Annotated[Principal, requires("member", "datasets:write")]


class MappingIn(BaseModel):
    """Which column of a file is which field of a format."""

    format: str = Field(description="messages, alpaca, sharegpt, completion, text, preference, kto")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The format's field: the file's column, or a path such as data.question",
    )
    tags: dict[str, str] = Field(
        default_factory=dict, description="ShareGPT: role_tag, content_tag, user_tag, …"
    )


class PreviewOut(BaseModel):
    """A row of the file, and what it would become."""

    raw: dict[str, Any]
    row: dict[str, Any] | None = Field(description="What it would become")
    path: str | None = Field(description="Where in the raw row the problem is")
    code: str | None
    message: str | None = Field(description="Why it cannot be used")
    unused: list[str] = Field(description="Fields that would be left out")


class MappingOut(BaseModel):
    """The columns of a file, the fields of each format, and what would come of them."""

    version: int
    status: str
    columns: list[str] = Field(description="The columns of the file's first rows")
    fields: dict[str, dict[str, bool]] = Field(
        description="The fields of each format, and whether they are needed"
    )
    mapping: MappingIn | None = Field(description="The one in use, or the best guess")
    preview: list[PreviewOut]


@router.get("/{dataset_id}/mapping")
def show(request: Request, dataset_id: str, who: Reader, db: Db, version: str = "") -> MappingOut:
    """The columns of a file that no format is known for, and what is guessed of them."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    rows = mapping.sample(found) if found.status == "mapping" else []
    guess = found.mapping or columns.guess(columns.names(rows), rows[0] if rows else None)
    return MappingOut(
        version=found.number,
        status=found.status,
        columns=columns.names(rows),
        fields=columns.FIELDS,
        mapping=MappingIn.model_validate(guess) if guess else None,
        preview=[preview_out(request, one) for one in mapping.preview(rows, guess)],
    )


@router.post("/{dataset_id}/mapping")
def submit(
    request: Request,
    dataset_id: str,
    who: Writer,
    body: MappingIn,
    version: str = "",
    preview: bool = False,
) -> schemas.DatasetWithErrors | MappingOut:
    """Name the columns: the file is checked again with them. `preview` only shows what comes."""
    chosen = mapping.checked(body.model_dump())
    if preview:
        with transaction() as db:
            found = service.version(db, who.workspace_id, dataset_id, version)
        mapping.waits(found)
        rows = mapping.sample(found)
        return MappingOut(
            version=found.number,
            status=found.status,
            columns=columns.names(rows),
            fields=columns.FIELDS,
            mapping=body,
            preview=[preview_out(request, one) for one in mapping.preview(rows, chosen)],
        )
    with transaction() as db:
        sent = mapping.submit(db, who, dataset_id, version, chosen)
        return schemas.with_errors(request, sent, [])


def preview_out(request: Request, one: Preview) -> PreviewOut:
    return PreviewOut(
        raw=one.raw,
        row=one.row,
        path=one.why.path if one.why else None,
        code=one.why.code if one.why else None,
        message=translate(request, one.why.message, **one.why.params) if one.why else None,
        unused=one.unused,
    )
