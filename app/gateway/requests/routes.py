"""The request log's pages."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from app.accounts.auth import Principal, requires
from app.errors import DomainError
from app.gateway.requests import entries, making, service
from app.gateway.requests.api import download
from app.gateway.requests.schemas import ChoiceForm, DatasetFrom, Wanted
from app.gateway.requests.tables import LoggedRequest
from app.queue import Db, transaction
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/requests", include_in_schema=False)
Who = Annotated[Principal, requires("viewer", "account")]
Maker = Annotated[Principal, requires("member", "datasets:write")]
Offset = Annotated[int, Query(ge=0, le=10**6)]
LISTED = 50


def asked_for(request: Request) -> Wanted:
    """The filter in the address; what is not understood is left out."""
    query = request.query_params
    given = {name: query[name] for name in Wanted.model_fields if query.get(name)}
    try:
        return Wanted.model_validate(given)
    except ValidationError as error:
        wrong = {one["loc"][0] for one in error.errors()}
        return Wanted.model_validate({name: given[name] for name in given.keys() - wrong})


def page(
    request: Request,
    who: Principal,
    db: Db,
    wanted: Wanted,
    offset: int = 0,
    form: Parsed[Any] | None = None,
) -> Response:
    found, total = service.page(db, who, wanted, offset=offset, limit=LISTED)
    keys = service.keys(db, who)
    return render(
        request,
        "requests/list.html",
        status=422 if form else 200,
        form=form,
        found=found,
        total=total,
        offset=offset,
        limit=LISTED,
        asked=wanted,
        models=service.models(db, who),
        keys={key.id: key.name for key, _, _ in keys},
        logging=any(choice for _, _, choice in keys),
    )


@router.get("", name="requests:list")
def list_requests(request: Request, who: Who, db: Db, offset: Offset = 0) -> Response:
    return page(request, who, db, asked_for(request), offset)


@router.get("/download", name="requests:download")
def download_requests(request: Request, who: Who) -> Response:
    return download(who, asked_for(request))


@router.post("/dataset", name="requests:make")
def make(
    request: Request, who: Maker, form: Annotated[Parsed[DatasetFrom], parsed(DatasetFrom)]
) -> Response:
    if form.data is not None:
        try:
            version, _, _ = making.make(who, form.data)
            return redirect(request, "datasets:detail", dataset_id=version.dataset_id)
        except DomainError as error:
            form.refuse(error)
    with transaction() as db:
        return page(request, who, db, form.data or Wanted(), form=form)


@router.get("/keys", name="requests:keys")
def keys(request: Request, who: Who, db: Db) -> Response:
    return render(request, "requests/keys.html", form=None, keys=service.keys(db, who))


@router.post("/keys/{key_id}", name="requests:choose")
def choose(
    request: Request,
    key_id: str,
    who: Who,
    form: Annotated[Parsed[ChoiceForm], parsed(ChoiceForm)],
    db: Db,
) -> Response:
    service.own_key(db, who, key_id)
    if form.data is None:
        found = service.keys(db, who)
        return render(request, "requests/keys.html", form=form, keys=found, status=422)
    service.choose(db, who, key_id, form.data)
    return redirect(request, "requests:keys")


@router.get("/{request_id}", name="requests:detail")
def detail(request: Request, request_id: str, who: Who, db: Db) -> Response:
    found = service.get(db, who, request_id)
    return render(
        request,
        "requests/detail.html",
        one=found,
        key=service.own_key(db, who, found.api_key_id),
        turns=turns(found),
        raw=pretty({"request": found.asked, "answer": found.answer}),
    )


def turns(entry: LoggedRequest) -> list[tuple[str, str]]:
    """Who said what, as text."""
    said = [
        (str(one.get("role", "")), "".join(entries.texts_of(one.get("content"))))
        for one in entry.asked.get("messages") or []
        if isinstance(one, dict)
    ]
    if not said:
        said = [("user", text) for text in entries.texts_asked(entry.asked)]
    answer = "\n".join(entries.texts_said(entry.answer))
    return [*said, ("assistant", answer)] if answer else said


def pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
