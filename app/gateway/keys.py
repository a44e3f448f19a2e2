"""API keys on the hot path: verified once, remembered for a few seconds by their hash."""

import asyncio
import hashlib
import time
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from app.accounts import service as accounts
from app.accounts.auth import Principal, check_address
from app.errors import N_, Forbidden, Unauthenticated
from app.queue import transaction

REMEMBER_SECONDS = 5.0  # also how long a revoked key may still be believed
MAX_SECRET = 200
known: dict[bytes, tuple[float, Principal]] = {}
looking: dict[bytes, asyncio.Future[Principal]] = {}


def verify(secret: str) -> Principal:
    with transaction() as db:
        return accounts.principal_of_key(db, secret)


async def look(digest: bytes, secret: str) -> Principal:
    """`verify`, remembered; many that come at once with the same key look once. Raises what it does."""
    task = looking.get(digest)
    if task is None:
        task = asyncio.ensure_future(run_in_threadpool(verify, secret))
        looking[digest] = task
        task.add_done_callback(lambda done: looked(digest, done))
    return await asyncio.shield(task)


def looked(digest: bytes, done: asyncio.Future[Principal]) -> None:
    looking.pop(digest, None)
    if done.cancelled() or done.exception():  # whoever waits for it has that too
        return
    if len(known) > 10_000:
        known.clear()
    known[digest] = (time.monotonic(), done.result())


class InferenceKey:
    """`requires("member", "inference")` for `/v1`: API keys only, no query per request."""

    role = "member"
    scope = "inference"

    async def __call__(self, request: Request) -> Principal:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if kind.lower() != "bearer" or not secret or len(secret) > MAX_SECRET:
            raise Unauthenticated(
                N_("An API key is needed: send it as Authorization: Bearer dk-…"),
                code="invalid_api_key",
            )
        digest = hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
        found = known.get(digest)
        if found and time.monotonic() - found[0] < REMEMBER_SECONDS:
            who = found[1]
        else:
            who = await look(digest, secret)
        check_address(request, who)
        if not who.may(self.role) or self.scope not in who.scopes:
            raise Forbidden(
                N_("This API key may not call models: it lacks the scope %(scope)s."),
                code="insufficient_scope",
                scope=self.scope,
            )
        request.state.who = who
        return who


Caller = Annotated[Principal, Depends(InferenceKey())]
