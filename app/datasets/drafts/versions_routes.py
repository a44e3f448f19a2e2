"""More pages of a draft and of versions: find and replace, new drafts, comparing."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import FormData

from app.datasets import service
from app.datasets.drafts import comparing, redraft, replacing, rewriting, row_form, schemas
from app.datasets.drafts import routes as drafts_routes
from app.datasets.drafts.replacing import Wanted
from app.datasets.drafts.routes import Fields, Which
from app.datasets.drafts.schemas import Change
from app.datasets.routes import Offset, Reader, Words, Writer, show
from app.errors import DomainError
from app.queue import transaction
from app.web import redirect, sentence

router = APIRouter(prefix="/datasets/{dataset_id}", include_in_schema=False)


# -- replace -----------------------------------------------------------------------------


@router.get("/replace", name="datasets:replace")
def replace(
    request: Request,
    dataset_id: str,
    who: Writer,
    version: str = "",
    find: Words = "",
    put: Annotated[str, Query(alias="replace", max_length=replacing.MOST_REPLACE)] = "",
    regex: bool = False,
    case: bool = False,
    role: Annotated[list[str] | None, Query()] = None,
    offset: Offset = 0,
    rows: Offset = 0,
    matches: Offset = 0,
) -> Response:
    """The form, and with `find` what would change; counting goes on from `offset`."""
    found = drafts_routes.open_draft(who, dataset_id, version)
    wanted = Wanted(find, put, regex, case, tuple(role or ()))
    seen, message, status = None, {}, 200
    if find:
        try:
            seen = replacing.preview(found, wanted, offset=offset)
        except DomainError as error:
            message, status = {error.field or "": sentence(request, error)}, error.status
    return show(
        request,
        "datasets/replace.html",
        found,
        block="preview" if offset else None,
        status=status,
        wanted=wanted,
        preview=seen,
        before={"rows": rows, "matches": matches},
        errors=message,
        asked={"version": version},
    )


@router.post("/replace", name="datasets:apply_replace")
def apply_replace(request: Request, dataset_id: str, who: Writer, fields: Fields) -> Response:
    version = str(fields.get("version", ""))
    wanted = Wanted(
        find=typed(fields, "find"),
        replace=typed(fields, "replace"),
        regex=bool(fields.get("regex")),
        case=bool(fields.get("case")),
        roles=tuple(str(one) for one in fields.getlist("role")),
    )
    rewriting.replace(who, dataset_id, version, wanted)
    return drafts_routes.to_list(request, dataset_id, version)


def typed(fields: FormData, name: str) -> str:
    return next(iter(row_form.typed(fields, name)), "")


# -- versions ----------------------------------------------------------------------------


@router.post("/draft", name="datasets:begin_draft")
def begin_draft(request: Request, dataset_id: str, who: Writer, version: Which = "") -> Response:
    made = redraft.begin(who, dataset_id, version)
    return drafts_routes.to_list(request, dataset_id, str(made.number))


@router.post("/discard", name="datasets:discard")
def discard(request: Request, dataset_id: str, who: Writer, version: Which = "") -> Response:
    redraft.discard(who, dataset_id, version)
    return redirect(request, "datasets:versions", dataset_id=dataset_id)


@router.get("/compare", name="datasets:compare")
def compare(
    request: Request,
    dataset_id: str,
    who: Reader,
    old: Annotated[str, Query(alias="from")] = "",
    new: Annotated[str, Query(alias="to")] = "",
    change: Change = "",
    offset: Offset = 0,
) -> Response:
    """Two versions row by row; without `from`, the newest and the one before it."""
    left, right = comparing.sides(who, dataset_id, old, new)
    with transaction() as db:
        versions = service.versions(db, dataset_id)
    one = comparing.compare(left, right)
    told: Any = schemas.comparison(
        one, left, right, change=change, offset=offset, limit=drafts_routes.PAGE
    )
    return show(
        request,
        "datasets/compare.html",
        right,
        versions=versions,
        told=told,
        change=change,
        offset=offset,
        limit=drafts_routes.PAGE,
        asked={"version": str(right.number)},
    )
