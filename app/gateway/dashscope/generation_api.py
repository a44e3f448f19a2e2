"""`/dashscope/api/v1/services/aigc/text-generation/generation`, over the same engines as `/v1`."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.gateway import service, streams
from app.gateway.api import gone, streamed
from app.gateway.dashscope import generation
from app.gateway.dashscope.generation import Events
from app.gateway.dashscope.replies import PREFIX
from app.gateway.direct import read_json
from app.gateway.keys import Caller

router = APIRouter(prefix=PREFIX, tags=["dashscope"])
PATH = "chat/completions"


@router.post("/services/aigc/text-generation/generation")
async def generate(request: Request, who: Caller) -> Response:
    """Answer a prompt or messages: whole, or as server-sent events if `X-DashScope-SSE: enable`."""
    accept = request.headers.get("accept", "")
    sse = request.headers.get("x-dashscope-sse", "").lower() == "enable"
    asked = generation.read(await read_json(request), stream=sse or "event-stream" in accept)
    caller = service.Caller.of(who)
    left = gone(request)
    try:
        if asked.body.get("stream"):
            events, exchange = await streams.stream(caller, PATH, asked.body, left)
            if events is not None:
                return streamed(Events(asked, exchange.id).of(events), exchange)
        else:
            exchange = await service.whole(caller, PATH, asked.body, left)
    except service.ClientGone:
        return Response(status_code=499)
    found = generation.whole(asked, exchange.status, exchange.answer, exchange.id)
    return JSONResponse(found, headers={"x-request-id": exchange.id})
