"""`/v1`: what the stock `openai` client talks to."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from app.deployments import service as deployments
from app.errors import N_, NotFound
from app.gateway import schemas, service
from app.gateway.keys import Caller
from app.queue import Db

router = APIRouter(prefix="/v1", tags=["inference"])


def card(model: deployments.ModelName) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "danlu",
    }


@router.get("/models")
def list_models(who: Caller, db: Db) -> dict[str, Any]:
    """Every name that can be called with this key."""
    names = deployments.names(db, who.workspace_id)
    return {"object": "list", "data": [card(model) for model in names]}


@router.get("/models/{name}")
def get_model(name: str, who: Caller, db: Db) -> dict[str, Any]:
    """One name that can be called with this key."""
    for model in deployments.names(db, who.workspace_id):
        if model.name == name:
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


async def complete(request: Request, who: Caller, path: str) -> Response:
    body = schemas.check(path, await read_json(request))
    caller = service.Caller(who.workspace_id, who.user_id, who.api_key_id)
    if body.get("stream"):
        status, answer, exchange = await service.stream(caller, path, body)
        headers = {"x-request-id": exchange.id, "cache-control": "no-cache"}
        if isinstance(answer, bytes):
            return Response(answer, status, headers, media_type="application/json")
        headers["x-accel-buffering"] = "no"
        return StreamingResponse(answer, status, headers, media_type="text/event-stream")

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    status, answer, request_id = await service.whole(caller, path, body, gone)
    return Response(answer, status, {"x-request-id": request_id}, media_type="application/json")


async def read_json(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise schemas.refuse(
            N_("The body is not valid JSON: line %(line)s, column %(column)s."),
            "",
            line=error.lineno,
            column=error.colno,
        ) from None
