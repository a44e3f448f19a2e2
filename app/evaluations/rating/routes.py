"""The pages of rating rounds: the list, a round, and the answer that is rated just now."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.errors import DomainError
from app.evaluations import service as evaluations
from app.evaluations.rating import service, view
from app.evaluations.rating.schemas import RatingCreate, RatingIn
from app.queue import Db
from app.web import Parsed, parsed, redirect, render

router = APIRouter(include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]
PAGE = 50


@router.get("/ratings", name="ratings:list")
def list_rounds(
    request: Request, who: Reader, db: Db, offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0
) -> Response:
    found, more = service.list_rounds(db, who.workspace_id, offset=offset, limit=PAGE)
    return render(
        request,
        "ratings/list.html",
        rounds=view.out(db, found),
        more=more,
        offset=offset,
        size=PAGE,
    )


@router.get("/evaluations/{evaluation_id}/ratings", name="ratings:of")
def rounds_of(request: Request, evaluation_id: str, who: Reader, db: Db) -> Response:
    """A part of the evaluation's page: its rounds, and the form of a new one."""
    return part(request, who, db, evaluation_id)


def part(
    request: Request,
    who: Principal,
    db: Db,
    evaluation_id: str,
    form: Parsed[RatingCreate] | None = None,
) -> Response:
    one = evaluations.get(db, who.workspace_id, evaluation_id)
    found, _ = service.list_rounds(db, who.workspace_id, evaluation_id=one.id)
    return render(
        request,
        "ratings/of.html",
        status=422 if form else 200,
        one=one,
        candidates=evaluations.candidates(db, [one.id])[one.id],
        rounds=view.out(db, found),
        form=form,
    )


@router.post("/evaluations/{evaluation_id}/ratings", name="ratings:create")
def create(
    request: Request,
    evaluation_id: str,
    who: Writer,
    db: Db,
    form: Annotated[Parsed[RatingCreate], parsed(RatingCreate)],
) -> Response:
    if form.data is not None:
        try:
            made = service.create(db, who, evaluation_id, form.data)
            return redirect(request, "ratings:detail", round_id=made.id)
        except DomainError as error:
            if error.field is None and error.status == 404:
                raise
            form.refuse(error)
    return part(request, who, db, evaluation_id, form)


@router.get("/ratings/{round_id}", name="ratings:detail")
def detail(request: Request, round_id: str, who: Reader, db: Db) -> Response:
    one = service.get(db, who.workspace_id, round_id)
    return render(
        request,
        "ratings/detail.html",
        one=view.out(db, [one])[0],
        evaluation=evaluations.get(db, who.workspace_id, one.evaluation_id),
        candidates=evaluations.candidates(db, [one.evaluation_id])[one.evaluation_id],
    )


@router.get("/ratings/{round_id}/rate", name="ratings:rate")
def rate(request: Request, round_id: str, who: Writer, db: Db, at: int | None = None) -> Response:
    """The answer at a place of the rater's own order; by default the first not rated yet."""
    one = service.get(db, who.workspace_id, round_id)
    place = at if at is not None else service.next_of(db, one, who.user_id)
    if place is None or one.state != "open":
        return redirect(request, "ratings:detail", round_id=one.id)
    shown = service.show(db, one, who.user_id, place)
    return render(request, "ratings/rate.html", one=one, shown=shown)


@router.post("/ratings/{round_id}/items/{at}", name="ratings:said")
def said(
    request: Request,
    round_id: str,
    at: int,
    who: Writer,
    db: Db,
    form: Annotated[Parsed[Any], parsed(RatingIn)],
) -> Response:
    """Rate it, and go on to the next that is left."""
    one = service.rate(db, who, round_id, at, form.data.value if form.data else 0)
    place = service.next_of(db, one, who.user_id, at + 1)
    if place is None:
        return redirect(request, "ratings:detail", round_id=one.id)
    return redirect(request, f"/ratings/{one.id}/rate?at={place}")


@router.post("/ratings/{round_id}/close", name="ratings:close")
def close(request: Request, round_id: str, who: Writer, db: Db) -> Response:
    service.close(db, who.workspace_id, round_id)
    return redirect(request, "ratings:detail", round_id=round_id)


@router.post("/ratings/{round_id}/delete", name="ratings:delete")
def delete(request: Request, round_id: str, who: Writer, db: Db) -> Response:
    service.delete(db, who.workspace_id, round_id)
    return redirect(request, "ratings:list")
