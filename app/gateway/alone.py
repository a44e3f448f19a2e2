"""Limits as one process counts them by itself, while Valkey is away."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from app.db import now
from app.gateway import ledger
from app.gateway.scopes import Scope
from app.quotas.service import midnight, month_of

if TYPE_CHECKING:
    from app.gateway.limits import Reservation

DAY = 86_400_000


@dataclass(frozen=True)
class Found:
    """What became of a reservation."""

    verdict: str  # ok, or the limit that refuses
    scope: int  # whose limit refuses, by its place
    tokens: int  # reserved
    wait: int  # milliseconds
    left: tuple[tuple[int, int], ...]  # of each scope, requests and tokens in this minute


@dataclass
class Bucket:
    """A minute's requests and tokens of one scope; full at first, and filled evenly."""

    requests: float
    tokens: float
    at: float

    def fill(self, scope: Scope) -> None:
        passed, self.at = time.monotonic() - self.at, time.monotonic()
        for name, limit in (("requests", scope.rpm), ("tokens", scope.tpm)):
            full = limit or 0
            setattr(self, name, min(full, getattr(self, name) + passed * full / 60))


buckets: dict[str, Bucket] = {}


async def reserve(
    scopes: Sequence[Scope],
    held: "Mapping[str, Mapping[str, Reservation]]",
    least: int,
    most: int,
) -> Found:
    """As limits.lua does it, over what this process holds."""
    verdict, place, wait, room = "ok", 0, 0.0, most
    mine = [bucket_of(scope) for scope in scopes]
    for number, (scope, bucket) in enumerate(zip(scopes, mine, strict=True)):
        if verdict != "ok":
            break
        holds = held.get(scope.id, {}).values()
        place = number
        if scope.budgeted:
            verdict, wait, room = await spend(scope, holds, least, room)
        if verdict == "ok" and scope.parallel is not None and len(holds) >= scope.parallel:
            verdict, wait = "parallel", 1000
        if verdict == "ok" and scope.rpm is not None and bucket.requests < 1:
            verdict, wait = "rpm", (1 - bucket.requests) * 60_000 / max(scope.rpm, 1)
        if verdict == "ok" and scope.tpm is not None:
            needed = max(1, min(least, scope.tpm))
            if bucket.tokens < needed:
                verdict, wait = "tpm", (needed - bucket.tokens) * 60_000 / max(scope.tpm, 1)
            room = min(room, int(bucket.tokens))
    reserved = 0
    if verdict == "ok":
        reserved = max(least, room)
        for bucket in mine:
            bucket.requests -= 1
            bucket.tokens -= reserved
    place = 0 if verdict == "ok" else place
    left = tuple((int(bucket.requests), int(bucket.tokens)) for bucket in mine)
    return Found(verdict, place, reserved, int(wait), left)


def bucket_of(scope: Scope) -> Bucket:
    new = Bucket(scope.rpm or 0, scope.tpm or 0, time.monotonic())
    bucket = buckets.setdefault(scope.id, new)
    bucket.fill(scope)
    return bucket


async def spend(
    scope: Scope, held: "Collection[Reservation]", least: int, room: int
) -> tuple[str, float, int]:
    """Of its budgets: the verdict, how long to wait, and the tokens that there is room for."""
    use = await run_in_threadpool(ledger.used, scope)
    holds = sum(one.tokens for one in held)
    at = midnight()
    _, month_ends = month_of(at)
    for name, used, until in (
        ("total_tokens", use.ever, DAY / 24),
        ("monthly_tokens", use.month, (month_ends - now()).total_seconds() * 1000),
        ("daily_tokens", use.today, DAY - (now() - at).total_seconds() * 1000),
    ):
        limit = getattr(scope, name)
        if limit is not None:
            left = limit - used - holds
            room = min(room, left)
            if left < max(least, 1):
                return name, until, room
    return "ok", 0.0, room


def settle(reservation: "Reservation", tokens: int) -> None:
    for scope in reservation.scopes:
        if bucket := buckets.get(scope.id):
            bucket.tokens += reservation.tokens - tokens
