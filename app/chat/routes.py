"""The chat page."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.accounts.auth import Principal, requires
from app.chat import service
from app.chat.schemas import Say
from app.chat.tables import Conversation
from app.deployments import service as deployments
from app.errors import N_, Conflict
from app.gateway import routing
from app.gateway import service as gateway
from app.gateway.api import gone, streamed
from app.queue import Db, transaction
from app.web import redirect, render

router = APIRouter(prefix="/chat", include_in_schema=False)
Who = Annotated[Principal, requires("member", "inference")]


@router.get("", name="chat:new")
def new(request: Request, who: Who, db: Db, model: str = "") -> Response:
    return page(request, who, db, model, None)


@router.get("/{conversation_id}", name="chat:detail")
def detail(request: Request, conversation_id: str, who: Who, db: Db) -> Response:
    conversation = service.get(db, who, conversation_id)
    return page(request, who, db, conversation.model, conversation)


def page(
    request: Request, who: Principal, db: Db, model: str, conversation: Conversation | None
) -> Response:
    return render(
        request,
        "chat/page.html",
        conversation=conversation,
        conversations=service.conversations(db, who),
        messages=service.messages(db, conversation.id) if conversation else [],
        models=[found.name for found in deployments.names(db, who.workspace_id)],
        model=model,
    )


@router.post("/say", name="chat:say")
async def say(request: Request, body: Say, who: Who) -> Response:
    """Store the question and stream the answer: OpenAI chunks between two events of our own."""
    caller = gateway.Caller(who.workspace_id, who.user_id, None)
    left = gone(request)
    try:  # nothing is stored if nobody answers, or nobody waited until the model was awake
        await gateway.unless_gone(left, routing.routes(who.workspace_id, body.model))
        turn = await run_in_threadpool(begin, who, body)
        events, exchange = await gateway.stream(
            caller, "chat/completions", turn.body, left, turn.conversation_id
        )
    except gateway.ClientGone:
        return Response(status_code=499)
    if events is None:
        raise Conflict(
            N_("The engine refused: %(said)s"),
            code="engine_refused",
            said=engine_message(exchange.answer),
        )
    return streamed(recorded(events, turn, exchange), exchange)


def begin(who: Principal, body: Say) -> service.Turn:
    with transaction() as db:
        return service.begin(db, who, body)


def engine_message(body: bytes) -> str:
    """An engine's own sentence."""
    try:
        error = orjson.loads(body).get("error") or {}
        return str(error.get("message", ""))[:500]
    except (orjson.JSONDecodeError, AttributeError):
        return body[:500].decode(errors="replace")


async def recorded(
    events: AsyncIterator[bytes], turn: service.Turn, exchange: gateway.Exchange
) -> AsyncIterator[bytes]:
    """The answer's events; what was said is stored at the end, also when the reader stops it."""
    said: list[str] = []
    started = time.perf_counter()
    yield named("turn", {"conversation": turn.conversation_id, "title": turn.title})
    try:
        async for event in events:
            said.append(text_of(event))
            yield event
        yield named("done", stats(exchange, started))
    finally:
        # not awaited: when the reader has gone, this generator may not wait for anything
        asyncio.get_running_loop().run_in_executor(
            None, store, turn, "".join(said), stats(exchange, started)
        )


def named(event: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))


def text_of(event: bytes) -> str:
    """The text that an OpenAI chunk adds."""
    if not event.startswith(b"data: {"):
        return ""
    choices = orjson.loads(event.removeprefix(b"data: ").strip()).get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


def stats(exchange: gateway.Exchange, started: float) -> dict[str, Any]:
    """Tokens and speed, as the page shows them under an answer."""
    tokens = exchange.completion_tokens or exchange.chunks
    seconds = max(time.perf_counter() - started, 1e-6)
    return {
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": tokens,
        "first_token_ms": exchange.first_token_ms,
        "tokens_per_second": round(tokens / seconds, 1),
    }


def store(turn: service.Turn, content: str, usage: dict[str, Any]) -> None:
    with transaction() as db:
        service.answer(db, turn, content, usage)


@router.post("/{conversation_id}/delete", name="chat:delete")
def delete(request: Request, conversation_id: str, who: Who, db: Db) -> Response:
    service.remove(db, who, conversation_id)
    return redirect(request, "chat:new")
