"""The limits of API keys as one process counts them by itself, while Valkey is away."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from app.accounts.limits import Limits
from app.db import now
from app.gateway import ledger
from app.quotas.service import midnight

if TYPE_CHECKING:
    from app.gateway.limits import Reservation

# verdict: ok, or the limit that refuses; requests and tokens left in this minute; tokens reserved;
# milliseconds to wait
Found = tuple[str, int, int, int, int]
DAY = 86_400_000


@dataclass
class Bucket:
    """A minute's requests and tokens of one key; full at first, and filled evenly."""

    requests: float
    tokens: float
    at: float

    def fill(self, limits: Limits) -> None:
        passed, self.at = time.monotonic() - self.at, time.monotonic()
        for name, limit in (("requests", limits.rpm), ("tokens", limits.tpm)):
            full = limit or 0
            setattr(self, name, min(full, getattr(self, name) + passed * full / 60))


buckets: dict[str, Bucket] = {}


async def reserve(
    key_id: str, limits: Limits, held: "Collection[Reservation]", least: int, most: int
) -> Found:
    """As limits.lua does it, over what this process holds."""
    bucket = buckets.setdefault(key_id, Bucket(limits.rpm or 0, limits.tpm or 0, time.monotonic()))
    bucket.fill(limits)
    room = most
    verdict, wait = "ok", 0.0
    if limits.daily_tokens is not None or limits.total_tokens is not None:
        today, ever = await run_in_threadpool(ledger.used, key_id)
        holds = sum(one.tokens for one in held)
        left = {
            "total_tokens": (limits.total_tokens, ever, DAY / 24),
            "daily_tokens": (limits.daily_tokens, today, DAY - since_midnight()),
        }
        for name, (limit, used, until) in left.items():
            if limit is not None and verdict == "ok":
                room = min(room, limit - used - holds)
                if room < least:
                    verdict, wait = name, until
    if verdict == "ok" and limits.parallel is not None and len(held) >= limits.parallel:
        verdict, wait = "parallel", 1000
    if verdict == "ok" and limits.rpm is not None and bucket.requests < 1:
        verdict, wait = "rpm", (1 - bucket.requests) * 60_000 / limits.rpm
    if verdict == "ok" and limits.tpm is not None:
        needed = min(least, limits.tpm)
        if bucket.tokens < needed:
            verdict, wait = "tpm", (needed - bucket.tokens) * 60_000 / limits.tpm
        room = min(room, int(bucket.tokens))
    reserved = 0
    if verdict == "ok":
        reserved = max(least, min(most, room))
        bucket.requests -= 1
        bucket.tokens -= reserved
    return verdict, int(bucket.requests), int(bucket.tokens), reserved, int(wait)


def since_midnight() -> float:
    return (now() - midnight()).total_seconds() * 1000


def settle(reservation: "Reservation", tokens: int) -> None:
    if bucket := buckets.get(reservation.key_id):
        bucket.tokens += reservation.tokens - tokens
