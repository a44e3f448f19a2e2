"""What validation found, as JSON: filtered, counted, downloaded; and overlaps of versions."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from app.accounts.auth import Principal, requires
from app.datasets import schemas, service
from app.datasets.validation import matching, problems
from app.datasets.validation import routes as problems_routes
from app.errors import N_, Invalid
from app.queue import Db, transaction

router = APIRouter(prefix="/api/v1/datasets/{dataset_id}", tags=["datasets"])
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Words = Annotated[str, Query(max_length=500)]


class Count(BaseModel):
    """How many problems have a code."""

    level: str
    code: str
    count: int
    listed: int = Field(description="At most 10,000 of the same code are listed")


class ProblemList(BaseModel):
    """What validation found."""

    data: list[schemas.Problem]
    has_more: bool
    total: int = Field(description="That the filter finds")
    counts: list[Count] = Field(description="Of all problems, by code, whatever the filter")


class Overlap(BaseModel):
    """Rows of a version that stand in another one as well."""

    rows: int = Field(description="Equal rows")
    prompts: int = Field(description="Rows whose prompt is equal, whatever the answer")
    examples: list[tuple[int, int]] = Field(
        description="The first pairs with equal prompts: `index` of a row, and of the other's"
    )


@router.get("/errors")
def errors(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    level: Words = "",
    code: Words = "",
    q: Words = "",
    offset: Offset = 0,
    limit: Limit = 100,
) -> ProblemList:
    """What validation found: errors in the order of the file, then warnings."""
    found = service.version(db, who.workspace_id, dataset_id, version)
    issues, total = problems.find(
        db, found.id, level=level, code=code, q=q, offset=offset, limit=limit
    )
    return ProblemList(
        data=[schemas.problem(request, issue) for issue in issues],
        has_more=offset + len(issues) < total,
        total=total,
        counts=[Count(**one) for one in problems.counts(db, found)],
    )


@router.get("/errors/download")
def download(
    request: Request,
    dataset_id: str,
    who: Reader,
    version: str = "",
    level: Words = "",
    code: Words = "",
    q: Words = "",
    form: Annotated[Literal["csv", "jsonl"], Query(alias="format")] = "jsonl",
) -> Response:
    """All that the filter finds, as CSV or JSONL."""
    with transaction() as db:
        found = service.version(db, who.workspace_id, dataset_id, version)
    return problems_routes.attachment(request, found, form, level=level, code=code, q=q)


@router.get("/overlap")
def overlap(
    dataset_id: str,
    who: Reader,
    other: Annotated[
        str, Query(alias="with", description="A dataset or a version, published")
    ] = "",
    version: str = "",
) -> Overlap:
    """How many rows of a version, such as a validation set, stand in another as well."""
    with transaction() as db:
        mine = service.version(db, who.workspace_id, dataset_id, version)
        if not other:
            raise Invalid(N_("Say which dataset to compare with."), code="missing", field="with")
        theirs = service.published(db, who.workspace_id, other)
    found = matching.overlap(mine, theirs)
    return Overlap(rows=found.rows, prompts=found.prompts, examples=found.examples)
