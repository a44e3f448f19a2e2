"""The chat page, and the page of rated answers."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.accounts.auth import Principal, requires
from app.chat import feedback, schemas, service, tree
from app.chat.tables import Conversation
from app.deployments import service as deployments
from app.errors import DomainError
from app.queue import Db, transaction
from app.web import Parsed, parsed, redirect, render

router = APIRouter(prefix="/chat", include_in_schema=False)
Reader = Annotated[Principal, requires("viewer", "inference")]
Who = Annotated[Principal, requires("member", "inference")]
Maker = Annotated[Principal, requires("member", "datasets:write")]
Words = Annotated[str, Query(max_length=500)]
Offset = Annotated[int, Query(ge=0, le=10**6)]
LISTED = 30  # conversations, rated answers


@router.get("", name="chat:new")
def new(
    request: Request, who: Who, db: Db, model: str = "", models: str = "", compare: str = ""
) -> Response:
    """`models` names several, with commas; `compare` a tuned one, to be set beside its base."""
    chosen = [name for name in (models.split(",") if models else [model]) if name]
    missing = ""
    chosen = [service.answering(db, who.workspace_id, name) for name in chosen]
    if compare:
        chosen, missing = service.beside(db, who.workspace_id, compare)
    return page(request, who, db, chosen[: schemas.MOST_COLUMNS], None, missing)


@router.get("/side", name="chat:side")
def side(
    request: Request, who: Who, db: Db, q: Words = "", of: str = "", offset: Offset = 0
) -> Response:
    """The list of conversations, found by their words."""
    return render(request, "chat/page.html", block="side", **listing(db, who, q, of, offset))


@router.get("/feedback", name="chat:feedback")
def rated(request: Request, who: Who, db: Db, offset: Offset = 0) -> Response:
    return rated_page(request, who, db, asked_for(request), offset, None)


@router.get("/feedback/counts", name="chat:counts")
def counts(request: Request, who: Who, db: Db) -> Response:
    """How many rows of each kind the choice gives."""
    wanted = asked_for(request)
    return render(
        request, "chat/feedback.html", block="counts", made=feedback.rows(db, who, wanted)
    )


@router.post("/feedback", name="chat:make")
def make(
    request: Request, who: Maker, form: Annotated[Parsed[Any], parsed(schemas.DatasetForm)]
) -> Response:
    if form.data is not None:
        try:
            version, _, _ = feedback.make(who, form.data)
            return redirect(request, "datasets:detail", dataset_id=version.dataset_id)
        except DomainError as error:
            form.refuse(error)
    with transaction() as db:
        return rated_page(request, who, db, asked_for(request), 0, form)


@router.get("/{conversation_id}", name="chat:detail")
def detail(request: Request, conversation_id: str, who: Reader, db: Db) -> Response:
    conversation = service.readable(db, who, conversation_id)
    columns = tree.lanes(db, conversation.id)
    names = [one.model for one in columns]
    numbers = [one.number for one in columns]
    return page(request, who, db, names, conversation, lanes=numbers)


@router.post("/{conversation_id}/delete", name="chat:delete")
def delete(request: Request, conversation_id: str, who: Who, db: Db) -> Response:
    service.remove(db, who, conversation_id)
    return redirect(request, "chat:new")


def page(
    request: Request,
    who: Principal,
    db: Db,
    chosen: list[str],
    conversation: Conversation | None,
    missing: str = "",
    lanes: Sequence[int] = (),
) -> Response:
    """The chat: `chosen` are the models of its columns, `missing` a base that nothing serves."""
    callable_ = deployments.names(db, who.workspace_id)
    names = [found.name for found in callable_ if not found.embeds]
    return render(
        request,
        "chat/page.html",
        conversation=conversation,
        own=conversation is None or conversation.user_id == who.user_id,
        names=names,
        chosen=chosen or names[:1] or [""],
        missing=missing,
        lanes=list(lanes),
        presets=[
            {"id": one.id, "name": one.name, "settings": one.settings}
            for one in service.presets(db, who)
        ],
        **listing(db, who, "", "", 0),
        most=schemas.MOST_COLUMNS,
    )


def listing(db: Db, who: Principal, q: str, of: str, offset: int) -> dict[str, Any]:
    found, more = service.conversations(db, who, q=q, of=of, offset=offset, limit=LISTED)
    asked = {"q": q, "of": of, "offset": offset, "next": offset + LISTED if more else 0}
    return {"conversations": found, "asked": asked}


def asked_for(request: Request) -> schemas.Wanted:
    """The filters and the ticked answers in the address; what is not understood is left out."""
    query = request.query_params
    given = {name: query[name] for name in ("q", "rating", "model", "days") if query.get(name)}
    try:
        return schemas.Wanted.model_validate({**given, "ids": query.getlist("ids")})
    except ValueError:
        return schemas.Wanted()


def rated_page(
    request: Request,
    who: Principal,
    db: Db,
    wanted: schemas.Wanted,
    offset: int,
    form: Parsed[Any] | None,
) -> Response:
    every = wanted.model_copy(update={"ids": []})
    found, total = feedback.rated(db, who, every, offset=offset, limit=LISTED)
    return render(
        request,
        "chat/feedback.html",
        status=422 if form else 200,
        found=found,
        total=total,
        offset=offset,
        limit=LISTED,
        asked=every,
        models=feedback.models(db, who),
        made=feedback.rows(db, who, wanted),
        drafts=feedback.drafts(db, who),
        form=form,
    )
