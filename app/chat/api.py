"""Conversations and what was said of their answers, as JSON."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.accounts.auth import Principal, requires
from app.chat import export, feedback, schemas, service, tree
from app.chat.streaming import Answer, Streamed
from app.errors import DomainError
from app.gateway import service as gateway
from app.paging import After
from app.queue import Db, transaction
from app.web import said, sentence

router = APIRouter(prefix="/api/v1", tags=["chat"])
Reader = Annotated[Principal, requires("viewer", "inference")]
Writer = Annotated[Principal, requires("member", "inference")]
Maker = Annotated[Principal, requires("member", "datasets:write")]
Offset = Annotated[int, Query(ge=0, le=10**6)]
Limit = Annotated[int, Query(ge=1, le=100)]
Words = Annotated[str, Query(max_length=500)]
PATIENCE = 20  # looks, a tenth of a second apart, at an answer that is being stored


# -- conversations -----------------------------------------------------------------------


@router.get("/conversations", name="api:chat:list")
def conversations(
    who: Writer,
    db: Db,
    q: Words = "",
    of: Literal["", "shared"] = "",
    after: After = "",
    offset: Offset = 0,
    limit: Limit = 30,
) -> schemas.Conversations:
    """One's own, or those that others in the workspace share; `q` is sought in all that was said."""
    data, more = service.conversations(db, who, q=q, of=of, after=after, offset=offset, limit=limit)
    return schemas.Conversations(data=data, has_more=more)


@router.post("/conversations", status_code=201, name="api:chat:ask")
def ask(body: schemas.Question, who: Writer, db: Db) -> schemas.Asked:
    """Store a question, for one model or several side by side. Then ask for each answer."""
    conversation, columns = service.ask(db, who, body)
    asked = [schemas.AskedIn(lane=lane, question=question) for lane, question in columns]
    return schemas.Asked(conversation=conversation.id, title=conversation.title, asked=asked)


@router.get("/conversations/{conversation_id}", name="api:chat:get")
def get(conversation_id: str, who: Reader, db: Db) -> schemas.ConversationOut:
    """One's own conversation, or one that is shared."""
    return service.out(db, who, service.readable(db, who, conversation_id))


@router.patch("/conversations/{conversation_id}", name="api:chat:change")
def change(
    conversation_id: str, body: schemas.Change, who: Writer, db: Db
) -> schemas.ConversationOut:
    """Rename it, or let the workspace read it."""
    return service.out(db, who, service.change(db, who, conversation_id, body))


@router.delete("/conversations/{conversation_id}", status_code=204, name="api:chat:delete")
def delete(conversation_id: str, who: Writer, db: Db) -> None:
    """Delete it with all that was said in it."""
    service.remove(db, who, conversation_id)


@router.get("/conversations/{conversation_id}/messages", name="api:chat:messages")
def messages(
    request: Request,
    conversation_id: str,
    who: Reader,
    db: Db,
    lane: Annotated[int, Query(ge=0, lt=schemas.MOST_COLUMNS)] = 0,
    before: Annotated[str, Query(max_length=100)] = "",
) -> schemas.Messages:
    """What a column shows, oldest first: the last messages, or those before one."""
    conversation = service.readable(db, who, conversation_id)
    shown, more = tree.page(db, conversation.id, lane, before)
    branches = tree.branches(db, conversation.id, shown)
    say = partial(said, request)
    data = [schemas.MessageOut.of(one, branches[one.id], say) for one in shown]
    return schemas.Messages(data=data, has_more=more)


@router.post(
    "/conversations/{conversation_id}/answers",
    name="api:chat:answer",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def answer(
    request: Request, conversation_id: str, body: schemas.AnswerTo, who: Writer
) -> Response:
    """Stream an answer to a question as server-sent events: OpenAI chunks between our own
    `answer`, `waiting` and `done` or `failed`. It is stored however far it comes.
    """
    turn = None
    for left in reversed(range(PATIENCE)):
        turn = await run_in_threadpool(begin, who, conversation_id, body, patient=left > 0)
        if turn is not None:
            break
        await asyncio.sleep(0.1)
    assert turn is not None, "the last look begins in any case"
    caller = gateway.Caller.of(who)
    say: Callable[[DomainError], str] = partial(sentence, request)
    return Streamed(Answer(caller, turn, say))


def begin(
    who: Principal, conversation_id: str, body: schemas.AnswerTo, *, patient: bool
) -> tree.Turn | None:
    with transaction() as db:
        conversation = service.get(db, who, conversation_id)
        return tree.begin(db, conversation, body, patient=patient)


@router.post("/conversations/{conversation_id}/show", status_code=204, name="api:chat:show")
def show(conversation_id: str, body: schemas.Shown, who: Writer, db: Db) -> None:
    """Turn a column to the branch that a message is on."""
    tree.show(db, service.get(db, who, conversation_id), body.lane, body.message)


@router.get("/conversations/{conversation_id}/export", name="api:chat:export")
def export_conversation(
    conversation_id: str, who: Reader, db: Db, form: Literal["json", "markdown"] = "json"
) -> Response:
    """All branches as JSON, or what the columns show as Markdown."""
    conversation = service.readable(db, who, conversation_id)
    if form == "json":
        body = orjson.dumps(export.as_json(db, conversation), option=orjson.OPT_INDENT_2)
        name, kind = "json", "application/json"
    else:
        body = export.as_markdown(db, conversation).encode()
        name, kind = "md", "text/markdown; charset=utf-8"
    file = quote(f"{export.file_name(conversation)}.{name}", safe="")
    disposition = f"attachment; filename=\"conversation.{name}\"; filename*=UTF-8''{file}"
    return Response(body, media_type=kind, headers={"content-disposition": disposition})


@router.get("/conversations/{conversation_id}/messages/{message_id}/code", name="api:chat:code")
def code(conversation_id: str, message_id: str, who: Reader, db: Db) -> list[schemas.Code]:
    """Programs that make the call behind an answer: curl, Python, Java."""
    conversation = service.readable(db, who, conversation_id)
    return export.code(db, tree.message(db, conversation.id, message_id))


# -- presets -----------------------------------------------------------------------------


@router.get("/chat-presets", name="api:chat:presets")
def presets(who: Writer, db: Db) -> schemas.Presets:
    """Settings that one keeps under a name."""
    return schemas.Presets(data=[preset_out(one) for one in service.presets(db, who)])


@router.put("/chat-presets", name="api:chat:keep")
def keep(body: schemas.Preset, who: Writer, db: Db) -> schemas.PresetOut:
    """Keep settings under a name; what had that name is replaced."""
    return preset_out(service.keep(db, who, body))


@router.delete("/chat-presets/{preset_id}", status_code=204, name="api:chat:drop")
def drop(preset_id: str, who: Writer, db: Db) -> None:
    """No longer keep them."""
    service.drop(db, who, preset_id)


def preset_out(one: Any) -> schemas.PresetOut:
    return schemas.PresetOut(id=one.id, name=one.name, settings=one.settings)


# -- feedback ----------------------------------------------------------------------------


@router.put(
    "/conversations/{conversation_id}/messages/{message_id}/feedback", name="api:chat:judge"
)
def judge(
    request: Request,
    conversation_id: str,
    message_id: str,
    body: schemas.Feedback,
    who: Writer,
    db: Db,
) -> schemas.MessageOut:
    """Rate an answer, say what it should have been, or choose it over others."""
    one = feedback.judge(db, who, conversation_id, message_id, body)
    branches = tree.branches(db, conversation_id, [one])
    return schemas.MessageOut.of(one, branches[one.id], partial(said, request))


@router.get("/feedback", name="api:chat:feedback")
def rated(
    who: Writer,
    db: Db,
    q: Words = "",
    rating: Literal["", "up", "down", "corrected", "chosen"] = "",
    model: Annotated[str, Query(max_length=200)] = "",
    days: Annotated[int, Query(ge=0, le=3650)] = 0,
    after: After = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> schemas.RatedList:
    """Rated answers of one's own conversations and the shared ones, the last rated first."""
    wanted = schemas.Wanted(q=q, rating=rating, model=model, days=days)
    data, _ = feedback.rated(db, who, wanted, after=after, offset=offset, limit=limit + 1)
    return schemas.RatedList(data=data[:limit], has_more=len(data) > limit)


@router.post("/feedback/dataset", status_code=201, name="api:chat:dataset")
def make_dataset(body: schemas.DatasetFrom, who: Maker) -> schemas.DatasetMade:
    """Make a dataset of rated answers, or add them to a draft (`dataset`)."""
    version, rows, left_out = feedback.make(who, body)
    return schemas.DatasetMade(dataset=version.dataset_id, rows=rows, left_out=left_out)
