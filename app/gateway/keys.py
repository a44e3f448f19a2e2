"""API keys on the hot path: verified once, remembered for a few seconds by their hash."""

import hashlib
from typing import Annotated

from fastapi import Depends, Request

from app.accounts import service as accounts
from app.accounts.auth import Principal, check_address
from app.errors import N_, Forbidden, Unauthenticated
from app.gateway.remembered import Remembered
from app.queue import transaction

REMEMBER_SECONDS = 5.0  # also how long a revoked key may still be believed
MAX_SECRET = 200
known = Remembered[bytes, Principal]()  # by the key's hash


def verify(secret: str) -> Principal:
    with transaction() as db:
        return accounts.principal_of_key(db, secret)


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
        who = await known.get(digest, REMEMBER_SECONDS, lambda: verify(secret))
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
