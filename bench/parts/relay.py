"""The least that a relay does, for benches: FastAPI and aiohttp, bytes passed through, nothing
checked or counted. `python relay.py PORT ENGINE`.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

ENGINE = sys.argv[2]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> StreamingResponse:
    """The engine's answer as it comes."""
    session: aiohttp.ClientSession = app.state.session
    body, headers = await request.body(), {"content-type": "application/json"}
    answer = await session.post(f"{ENGINE}/v1/chat/completions", data=body, headers=headers)

    async def pieces() -> AsyncIterator[bytes]:
        async with answer:
            async for piece in answer.content.iter_any():
                yield piece

    kind = answer.headers["content-type"]
    return StreamingResponse(pieces(), answer.status, media_type=kind)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", access_log=False, log_level="warning")
