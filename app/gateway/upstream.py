"""Talking to engines: one shared aiohttp session, bytes passed through as they come."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from app.config import settings
from app.deployments.service import Route, RouteReplica
from app.errors import N_, Unavailable
from app.gateway import ledger

# Requests that this process has open at each replica, for least-loaded routing.
in_flight: Counter[str] = Counter()
session: aiohttp.ClientSession | None = None


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    """The shared session and the ledger's flusher, for as long as the web process lives."""
    global session
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        auto_decompress=False,
    )
    settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    flusher = asyncio.create_task(ledger.flush_forever())
    try:
        yield
    finally:
        flusher.cancel()
        await session.close()
        with contextlib.suppress(Exception):  # the spool stays; the next start flushes it
            await asyncio.to_thread(ledger.flush)


def by_load(route: Route) -> list[RouteReplica]:
    return sorted(route.replicas, key=lambda replica: in_flight[replica.id])


async def post(
    route: Route, path: str, body: dict[str, Any], request_id: str
) -> tuple[RouteReplica, aiohttp.ClientResponse]:
    """The engine's answer, headers read. Tries the next replica if one cannot be reached.

    Raises `Unavailable` when none answers. The caller closes the response and gives back
    `in_flight[replica.id]`.
    """
    assert session is not None, "the gateway's lifespan has not started"
    for replica in by_load(route):
        payload = orjson.dumps(spoken_for(route, body) | {"model": replica.served_name})
        in_flight[replica.id] += 1
        try:
            response = await session.post(
                f"{replica.address}/v1/{path}",
                data=payload,
                headers={
                    "authorization": f"Bearer {replica.secret}",
                    "content-type": "application/json",
                    "x-request-id": request_id,
                },
            )
            return replica, response
        except aiohttp.ClientConnectionError:
            in_flight[replica.id] -= 1
        except BaseException:
            in_flight[replica.id] -= 1
            raise
    raise Unavailable(
        N_("No engine of %(name)s answers just now. Try again in a few seconds."),
        code="engine_unreachable",
        name=route.name,
    )


def spoken_for(route: Route, body: dict[str, Any]) -> dict[str, Any]:
    """The body as the engine must see it so that it does what the model learned: an adapter that
    another's engine carries stops and draws as its own files say, unless the caller says more.
    """
    if not route.sends:
        return body
    said = {name: value for name, value in body.items() if value is not None}
    sent = route.sends | said
    own, asked = route.sends.get("stop_token_ids", []), said.get("stop_token_ids", [])
    if own and body.get("ignore_eos"):
        sent = sent | {"stop_token_ids": asked}
    elif own and isinstance(asked, list):
        sent = sent | {"stop_token_ids": [*own, *asked]}
    return sent


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Complete server-sent events, each with the blank line that ends it."""
    pending = b""
    async for chunk in response.content.iter_any():
        pending += chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk
        *complete, pending = pending.split(b"\n\n")
        for event in complete:
            if event.strip():
                yield event + b"\n\n"
    if pending.strip():
        yield pending + b"\n\n"
