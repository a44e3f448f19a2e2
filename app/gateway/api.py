"""`/v1`: what the stock `openai` client talks to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.deployments import service as deployments
from app.errors import N_, NotFound
from app.gateway import direct, service
from app.gateway.direct import headers, read_json
from app.gateway.keys import Caller
from app.gateway.tuning import names as tuned
from app.queue import Db

router = APIRouter(prefix="/v1", tags=["inference"])


def card(model: deployments.ModelName | tuned.Tuned) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "danlu",
    }


@router.get("/models")
def list_models(who: Caller, db: Db) -> dict[str, Any]:
    """Every name that can be called with this key, and the workspace's tuned models."""
    names = tuned.all_names(db, who.workspace_id)
    allowed = [model for model in names if who.limits.permits(model.name)]
    return {"object": "list", "data": [card(model) for model in allowed]}


@router.get("/models/{name}")
def get_model(name: str, who: Caller, db: Db) -> dict[str, Any]:
    """One of those names."""
    for model in tuned.all_names(db, who.workspace_id):
        if model.name == name and who.limits.permits(name):
            return card(model)
    raise NotFound(
        N_("There is no model called %(name)s here. /v1/models lists those there are."),
        code="model_not_found",
        field="model",
        name=name[:200],
    )


@router.post("/chat/completions")
async def chat_completions(request: Request, who: Caller) -> Response:
    """OpenAI's chat completions, streamed or whole."""
    return await complete(request, who, "chat/completions")


@router.post("/completions")
async def completions(request: Request, who: Caller) -> Response:
    """OpenAI's text completions, streamed or whole."""
    return await complete(request, who, "completions")


class Stream(StreamingResponse):
    """Closes its exchange whatever happens, a client gone before the first byte included."""

    exchange: service.Exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.exchange.close()


async def complete(request: Request, who: Caller, path: str, model: str = "") -> Response:
    """Completions come here only where nothing was quicker: see `gateway.direct`. `model` is meant
    whatever the body says, where one is given.
    """
    asked = await read_json(request)
    if model and isinstance(asked, dict):
        asked["model"] = model
    return direct.Answer(who, path, asked)


def streamed(events: AsyncIterator[bytes], exchange: service.Exchange) -> Stream:
    """The events as a response that proxies do not buffer."""
    more = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    response = Stream(events, 200, headers(exchange) | more, media_type="text/event-stream")
    response.exchange = exchange
    return response


def gone(request: Request) -> Callable[[], Awaitable[None]]:
    """A coroutine function that returns when the client has left."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait
