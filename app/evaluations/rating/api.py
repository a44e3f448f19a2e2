"""`/api/v1/ratings`: people rate the answers of an evaluation, without knowing whose they are."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from app.accounts.auth import Principal, requires
from app.evaluations.rating import service, view
from app.evaluations.rating.schemas import (
    ItemOut,
    RatingCreate,
    RatingIn,
    RatingRoundOut,
    RatingRounds,
)
from app.paging import After, Limit
from app.queue import Db

router = APIRouter(prefix="/api/v1", tags=["ratings"])
Reader = Annotated[Principal, requires("viewer", "jobs:read")]
Writer = Annotated[Principal, requires("member", "jobs:write")]


@router.post("/evaluations/{evaluation_id}/ratings", status_code=201, name="api:ratings:create")
def create_rating_round(
    evaluation_id: str, body: RatingCreate, who: Writer, db: Db
) -> RatingRoundOut:
    """Have people rate a sample of its answers."""
    return view.out(db, [service.create(db, who, evaluation_id, body)])[0]


@router.get("/ratings", name="api:ratings:list")
def list_rating_rounds(
    who: Reader,
    db: Db,
    evaluation: Annotated[str, Query(max_length=40, description="Of this one only.")] = "",
    after: After = "",
    limit: Limit = 20,
) -> RatingRounds:
    """The workspace's rating rounds, newest first."""
    found, more = service.list_rounds(
        db, who.workspace_id, evaluation_id=evaluation, after=after, limit=limit
    )
    return RatingRounds(data=view.out(db, found), has_more=more)


@router.get("/ratings/{round_id}", name="api:ratings:get")
def get_rating_round(round_id: str, who: Reader, db: Db) -> RatingRoundOut:
    """How far its raters are, and once it is closed what came of it."""
    return view.out(db, [service.get(db, who.workspace_id, round_id)])[0]


@router.get("/ratings/{round_id}/items/{at}", name="api:ratings:item")
def get_rating_item(round_id: str, at: int, who: Writer, db: Db) -> ItemOut:
    """What the caller is to rate at this place of their own order, from 0."""
    one = service.get(db, who.workspace_id, round_id)
    return ItemOut(**vars(service.show(db, one, who.user_id, at)))


@router.put("/ratings/{round_id}/items/{at}", name="api:ratings:rate")
def rate_item(round_id: str, at: int, body: RatingIn, who: Writer, db: Db) -> ItemOut:
    """Rate it, or think again; the item with its new value is the answer."""
    one = service.rate(db, who, round_id, at, body.value)
    return ItemOut(**vars(service.show(db, one, who.user_id, at)))


@router.post("/ratings/{round_id}/close", name="api:ratings:close")
def close_rating_round(round_id: str, who: Writer, db: Db) -> RatingRoundOut:
    """Nobody rates any more; whose answers got what is told."""
    return view.out(db, [service.close(db, who.workspace_id, round_id)])[0]


@router.get("/ratings/{round_id}/export", name="api:ratings:export", response_class=Response)
def export_ratings(
    round_id: str,
    who: Reader,
    db: Db,
    format: Literal["csv", "json"] = "json",  # noqa: A002
) -> Response:
    """Every single rating of a closed round."""
    return view.file(db, service.get(db, who.workspace_id, round_id), format)


@router.delete("/ratings/{round_id}", status_code=204, name="api:ratings:delete")
def delete_rating_round(round_id: str, who: Writer, db: Db) -> Response:
    """Remove it with all ratings."""
    service.delete(db, who.workspace_id, round_id)
    return Response(status_code=204)
