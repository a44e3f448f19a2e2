"""`/api/v1/requests`: the request log, and what keys keep in it."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from app.accounts.auth import Principal, requires
from app.gateway.requests import making, schemas, service
from app.gateway.requests.schemas import (
    ChoiceIn,
    ChoiceOut,
    DatasetFrom,
    Made,
    RequestOut,
    Requests,
)
from app.gateway.requests.schemas import Wanted as Filter
from app.queue import Db

router = APIRouter(prefix="/api/v1", tags=["requests"])
Who = Annotated[Principal, requires("viewer", "account")]
Maker = Annotated[Principal, requires("member", "datasets:write")]
Wanted = Annotated[Filter, Query()]


def as_lines(who: Principal, wanted: Filter) -> Iterator[bytes]:
    for one in service.every(who, wanted):
        yield schemas.out(one).model_dump_json().encode() + b"\n"


def download(who: Principal, wanted: Filter) -> StreamingResponse:
    return StreamingResponse(
        as_lines(who, wanted),
        media_type="application/jsonl",
        headers={"content-disposition": 'attachment; filename="requests.jsonl"'},
    )


class Paged(Filter):
    after: Annotated[str, Field(max_length=100)] = ""
    limit: Annotated[int, Field(ge=1, le=200)] = 50


@router.get("/requests")
def list_requests(who: Who, db: Db, wanted: Annotated[Paged, Query()]) -> Requests:
    """The newest first: of your own keys; an admin sees the workspace's. `after` is the last id."""
    found, more = service.listed(db, who, wanted, after=wanted.after, limit=wanted.limit)
    return Requests(data=[schemas.out(one) for one in found], has_more=more)


@router.get("/requests/download", response_class=StreamingResponse)
def download_requests(who: Who, wanted: Wanted) -> StreamingResponse:
    """All that match, one JSON object a line."""
    return download(who, wanted)


@router.post("/requests/dataset", status_code=201)
def make_dataset(body: DatasetFrom, who: Maker) -> Made:
    """A draft of the conversations that match."""
    version, rows, left_out = making.make(who, body)
    return Made(id=version.dataset_id, rows=rows, left_out=left_out)


@router.get("/requests/{request_id}")
def get_request(request_id: str, who: Who, db: Db) -> RequestOut:
    """One entry of the request log."""
    return schemas.out(service.get(db, who, request_id))


@router.get("/keys/{key_id}/log")
def get_choice(key_id: str, who: Who, db: Db) -> ChoiceOut:
    """What is kept of the requests of a key."""
    return schemas.choice_out(key_id, service.choice(db, who, key_id))


@router.put("/keys/{key_id}/log")
def put_choice(key_id: str, body: ChoiceIn, who: Who, db: Db) -> ChoiceOut:
    """It counts within two seconds. What is logged already stays until its days are over."""
    return schemas.choice_out(key_id, service.choose(db, who, key_id, body))
