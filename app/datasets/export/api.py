"""A version as a file in one of many formats."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.datasets import service
from app.datasets.export import service as export
from app.datasets.tables import DatasetVersion
from app.queue import transaction
from app.web import translate

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Form = Annotated[str, Query(alias="format")]


class Offer(BaseModel):
    """A format that a version can be had in."""

    format: str = Field(description="What `format` of /export takes")
    name: str
    carries_all: bool = Field(description="All rows looked at fit")
    unfit: int = Field(description="Rows, of those looked at, that do not")
    first_unfit: int | None = Field(description="The number of the first such row, from 0")
    why: str | None = Field(description="What it would lose")


class Offers(BaseModel):
    """The formats that a version can be had in."""

    data: list[Offer]
    has_more: bool = False
    rows_seen: int = Field(description="Rows looked at, from the first on")
    whole: bool = Field(description="All rows were looked at")


@router.get("/{dataset_id}/exports")
def exports(request: Request, dataset_id: str, who: Reader, version: str = "") -> Offers:
    """Which formats carry the rows of a version, and what stands in the way of others."""
    found = find(who, dataset_id, version)
    export.chosen(found, "")
    seen = export.survey(found)
    return Offers(
        data=[offer(request, one) for one in export.offers(found, seen)],
        rows_seen=seen.seen,
        whole=seen.whole,
    )


def offer(request: Request, one: dict[str, Any]) -> Offer:
    unfit: export.Unfit | None = one["unfit"]
    return Offer(
        format=one["format"],
        name=translate(request, one["name"]),
        carries_all=unfit is None,
        unfit=unfit.count if unfit else 0,
        first_unfit=unfit.first if unfit else None,
        why=translate(request, unfit.why.message, **unfit.why.params) if unfit else None,
    )


@router.get("/{dataset_id}/export", name="api:datasets:export", response_class=StreamingResponse)
def export_rows(
    dataset_id: str, who: Reader, version: str = "", form: Form = "", skip_unfit: bool = False
) -> StreamingResponse:
    """The rows as JSONL or CSV in the format asked for; 409 names the first that would not fit.

    With `skip_unfit`, the rows that do not fit are left out.
    """
    found = find(who, dataset_id, version)
    form = export.chosen(found, form)
    if not skip_unfit:
        export.check(found, form)
    ending = export.suffix(form)
    export.taken(found, form)
    return StreamingResponse(
        export.content(found, form),
        media_type="text/csv; charset=utf-8" if ending == "csv" else "application/jsonl",
        headers={"content-disposition": disposition(found, form, ending)},
    )


def find(who: Principal, dataset_id: str, version: str) -> DatasetVersion:
    """No session stays open while rows are read."""
    with transaction() as db:
        return service.version(db, who.workspace_id, dataset_id, version)


def disposition(version: DatasetVersion, form: str, ending: str) -> str:
    """The name to save the file under: for every client, and in full for those that know how."""
    name = f"{version.dataset.name}-v{version.number}-{form.removesuffix('-csv')}"
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in name)
    full = quote(f"{name}.{ending}", safe="")
    return f"attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{full}"
