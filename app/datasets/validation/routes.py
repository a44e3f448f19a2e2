"""The Validation tab: what was found, by level, code and text; and what another version shares."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.accounts.auth import Principal, requires
from app.datasets import schemas, service
from app.datasets.routes import find, show
from app.datasets.tables import DatasetVersion
from app.datasets.validation import matching, problems
from app.errors import DomainError
from app.queue import Db, transaction
from app.web import sentence

router = APIRouter(prefix="/datasets/{dataset_id}/validation", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "datasets:read")]
Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=200)]
Words = Annotated[str, Query(max_length=500)]


@router.get("", name="datasets:validation")
def validation(
    request: Request,
    dataset_id: str,
    who: Reader,
    db: Db,
    version: str = "",
    level: Words = "",
    code: Words = "",
    q: Words = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> Response:
    found = service.version(db, who.workspace_id, dataset_id, version)
    asked = {"level": level, "code": code, "q": q}
    issues, total = problems.find(db, found.id, **asked, offset=offset, limit=limit)
    return show(
        request,
        "datasets/validation.html",
        found,
        problems=[schemas.problem(request, issue) for issue in issues],
        total=total,
        counts=problems.counts(db, found),
        others=[one for one in service.list_published(db, who.workspace_id) if one.id != found.id],
        looked_at=bool(found.checks.get("artefact")),
        asked={"version": version, **asked},
        offset=offset,
        limit=limit,
    )


@router.get("/download", name="datasets:problems")
def download(
    request: Request,
    dataset_id: str,
    who: Reader,
    version: str = "",
    level: Words = "",
    code: Words = "",
    q: Words = "",
    form: Literal["csv", "jsonl"] = "csv",
) -> Response:
    """All that the filter finds, as a file."""
    return attachment(request, find(who, dataset_id, version), form, level=level, code=code, q=q)


@router.get("/overlap", name="datasets:overlap")
def overlap(
    request: Request, dataset_id: str, who: Reader, version: str = "", other: Words = ""
) -> Response:
    """How many rows stand in a version of another dataset as well."""
    found = find(who, dataset_id, version)
    context: dict[str, Any] = {"shared": None, "other": None, "refused": ""}
    try:
        with transaction() as db:
            one = service.published(db, who.workspace_id, other)
        context |= {"shared": matching.overlap(found, one), "other": one}
    except DomainError as error:
        context["refused"] = sentence(request, error)
    return show(
        request,
        "datasets/validation.html",
        found,
        block="overlap",
        asked={"version": version},
        **context,
    )


def attachment(
    request: Request, version: DatasetVersion, form: str, **filters: str
) -> StreamingResponse:
    problems.matching(version.id, **filters)  # refuses before the answer begins
    return StreamingResponse(
        problems.download(
            version.id, form, lambda one: schemas.problem(request, one).model_dump(), **filters
        ),
        media_type="text/csv; charset=utf-8" if form == "csv" else "application/jsonl",
        headers={"content-disposition": f'attachment; filename="problems-{version.id}.{form}"'},
    )
